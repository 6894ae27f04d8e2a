//! HTTP and the control socket: what they read, and what they may ask the supervisor.

use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};

use crate::api::control::{self, ControlReply, ControlRequest, Handler, Peer};
use crate::api::{self, Fetched, Hosts, IncidentSource, Run, Shared, Story};
use crate::config::Config;
use crate::job::{Job, Outcome};
use crate::journal::{Filter, History, Journal};
use crate::model::{Incident, IncidentId, Verdict};
use crate::supervisor::status::Pulse;
use crate::supervisor::{Command, Context, Message, RollbackAsk};

use super::{DaemonError, one_pass, reload::Reloader};

/// Listing evidence reads small files.
const LIST_PATIENCE: Duration = Duration::from_secs(30);

/// Starts answering on both; the sockets listen when this returns.
///
/// # Errors
/// When one cannot listen.
pub(super) async fn listen(
    config: &Config,
    cx: &Context,
    pulse: &Arc<Pulse>,
    outbox: &mpsc::UnboundedSender<Message>,
    reloader: Reloader,
) -> Result<(), DaemonError> {
    let incidents: Arc<dyn IncidentSource> = Arc::new(Incidents(cx.journal.clone()));
    if let Some(address) = config.guardian.http {
        let cannot =
            |error| DaemonError::Listen(format!("HTTP cannot listen on {address}: {error}; set another `http`"));
        let listener = TcpListener::bind(address).await.map_err(cannot)?;
        let bound = listener.local_addr().map_err(cannot)?;
        tracing::info!(address = %bound, "HTTP listens");
        let shared = Shared {
            board: Arc::clone(&cx.board),
            pulse: Arc::clone(pulse),
            clock: cx.clock.clone(),
            incidents: Arc::clone(&incidents),
            process: Arc::new(crate::host::process_sample),
            hosts: Hosts::new(bound, &config.guardian.http_hosts),
            started_at: cx.clock.now().wall,
        };
        let mut stopping = cx.stopping.clone();
        let stop = async move { drop(stopping.wait_for(|stop| *stop).await) };
        tokio::spawn(async move {
            if let Err(error) = api::serve(listener, shared, stop).await {
                tracing::error!(%error, "HTTP ended");
            }
        });
    }
    let desk = Arc::new(Desk { cx: cx.clone(), incidents, outbox: outbox.clone(), reloader });
    let handler: Handler = Arc::new(move |request, peer| {
        let desk = Arc::clone(&desk);
        Box::pin(async move { desk.answer(request, peer).await }) as Pin<Box<dyn Future<Output = ControlReply> + Send>>
    });
    let serving =
        control::serve(&config.guardian.control, handler).map_err(|error| DaemonError::Listen(error.to_string()))?;
    let mut stopping = cx.stopping.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = serving => {}
            _ = stopping.wait_for(|stop| *stop) => {}
        }
    });
    Ok(())
}

/// Incidents from the journal.
struct Incidents(Journal);

impl IncidentSource for Incidents {
    fn incidents(&self, target: Option<String>, state: Option<String>, limit: usize) -> Fetched<'_, Vec<Incident>> {
        let filter = Filter { target, state, limit };
        Box::pin(async move { self.0.incidents(filter).await.map_err(|error| error.to_string()) })
    }

    fn incident(&self, id: IncidentId) -> Fetched<'_, Option<Incident>> {
        Box::pin(async move { self.0.incident(&id).await.map_err(|error| error.to_string()) })
    }

    fn history(&self, hours: u32) -> Fetched<'_, Vec<Story>> {
        Box::pin(async move {
            let history = self.0.stats(hours).await.map_err(|error| error.to_string())?;
            Ok(history.into_iter().map(story).collect())
        })
    }
}

fn story(past: History) -> Story {
    let runs = past.runs.into_iter().map(|run| Run {
        playbook: run.playbook,
        began_at: run.began_at,
        seconds: run.seconds,
        success: run.success,
    });
    Story { incident: past.incident, runs: runs.collect() }
}

/// Answers what the control socket is asked.
struct Desk {
    cx: Context,
    incidents: Arc<dyn IncidentSource>,
    outbox: mpsc::UnboundedSender<Message>,
    reloader: Reloader,
}

impl Desk {
    async fn answer(&self, request: ControlRequest, peer: Peer) -> ControlReply {
        let answered = match request {
            ControlRequest::Heal { target, dry_run } => self.heal(target, dry_run).await,
            ControlRequest::Check { targets } => self.check(targets).await,
            ControlRequest::Backup { target } => self.backup(target).await,
            ControlRequest::Status { target: None } => Ok(self.status()),
            ControlRequest::Status { target: Some(target) } => self.status_of(target).await,
            ControlRequest::Incidents { target, state, limit } => {
                let found = self.incidents.incidents(target, state, limit.unwrap_or(100)).await;
                found.map(|found| (0, json!({ "incidents": found })))
            }
            ControlRequest::Incident { id } => match self.incidents.incident(IncidentId(id.clone())).await {
                Ok(Some(incident)) => self.told(incident).await,
                Ok(None) => Err(format!("there is no incident {id}")),
                Err(error) => Err(error),
            },
            ControlRequest::Rollback { id, generation, accept_loss, dry_run } => {
                let by = format!("uid {}", peer.uid);
                let incident = IncidentId(id);
                self.rollback(RollbackAsk { incident, generation, accept_loss, dry_run, by }).await
            }
            ControlRequest::Approve { id } => self.approve(id, peer.uid).await,
            ControlRequest::Pause { target, for_ms } => self.pause(target, for_ms, peer.uid).await,
            ControlRequest::Resume { target } => {
                let by = peer.uid;
                let resumed =
                    self.ask(|reply| Command::Resume { name: target, by, reply }).await.and_then(|resumed| resumed);
                resumed.map(|resumed| (0, json!(resumed)))
            }
            ControlRequest::Reload => match self.reloader.reload().await {
                Ok(detail) => Ok((0, json!({ "reloaded": detail }))),
                // As every command that is given a bad configuration (EX_CONFIG).
                Err(message) => return ControlReply::Refused { exit: 78, message },
            },
        };
        match answered {
            Ok((exit, result)) => ControlReply::Done { exit, result },
            Err(message) => ControlReply::Refused { exit: 1, message },
        }
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, String> {
        let (reply, answer) = oneshot::channel();
        let gone = || "guardiand is stopping".to_owned();
        self.outbox.send(Message::Command(command(reply))).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())
    }

    async fn heal(&self, target: String, dry_run: bool) -> Result<(u8, serde_json::Value), String> {
        let answer = self.ask(|reply| Command::Heal { target, dry_run, reply }).await??;
        let report = one_pass::report(answer, dry_run);
        Ok((report.outcome.exit(), json!(report)))
    }

    async fn approve(&self, id: String, by: u32) -> Result<(u8, serde_json::Value), String> {
        let incident = IncidentId(id);
        let answer = self.ask(|reply| Command::Approve { incident, by, reply }).await??;
        let report = one_pass::report(answer, false);
        Ok((report.outcome.exit(), json!(report)))
    }

    async fn pause(
        &self,
        name: Option<String>,
        for_ms: Option<u64>,
        by: u32,
    ) -> Result<(u8, serde_json::Value), String> {
        let span = for_ms.map(Duration::from_millis);
        let target = name.clone();
        let pause = self.ask(|reply| Command::Pause { name, span, by, reply }).await??;
        Ok((0, json!({ "target": target, "paused": pause })))
    }

    async fn check(&self, targets: Vec<String>) -> Result<(u8, serde_json::Value), String> {
        let named = match targets.is_empty() {
            false => targets,
            true => {
                let board = self.cx.board.read().unwrap_or_else(PoisonError::into_inner);
                board.targets().map(|target| target.name.clone()).collect()
            }
        };
        let mut checks = Vec::new();
        for target in named {
            checks.push(self.ask(|reply| Command::Check { target, reply }).await??);
        }
        let is = |wanted: fn(&Verdict) -> bool| checks.iter().any(|check| wanted(&check.verdict));
        let exit = match () {
            () if is(|verdict| matches!(verdict, Verdict::Unhealthy(_))) => 1,
            () if is(|verdict| matches!(verdict, Verdict::Unknown(_))) => 3,
            () => 0,
        };
        Ok((exit, json!(checks)))
    }

    async fn backup(&self, target: String) -> Result<(u8, serde_json::Value), String> {
        match self.ask(|reply| Command::Backup { target, reply }).await?? {
            Ok(Outcome::BackedUp(entry)) => Ok((0, json!(entry))),
            Ok(_) => Err("the backup's job answered something else".to_owned()),
            Err(failure) => Err(failure.message),
        }
    }

    /// One target, and who uses it now. One that is attended, or does not answer, is shown as it was last seen.
    async fn status_of(&self, target: String) -> Result<(u8, serde_json::Value), String> {
        let named = target.clone();
        let looked = self.ask(|reply| Command::Who { target, reply }).await?;
        let board = self.cx.board.read().unwrap_or_else(PoisonError::into_inner);
        match board.target(&named) {
            Some(target) => Ok((0, json!(target))),
            None => Err(looked
                .err()
                .unwrap_or_else(|| format!("there is no target named `{named}`: `guardiand status` lists them"))),
        }
    }

    async fn rollback(&self, ask: RollbackAsk) -> Result<(u8, serde_json::Value), String> {
        let id = ask.incident.clone();
        let of = self.incidents.incident(id.clone()).await?.ok_or_else(|| format!("there is no incident {id}"))?;
        let answer = self.ask(|reply| Command::Rollback { ask, of: Box::new(of), reply }).await??;
        Ok((answer.outcome.exit(), json!(answer)))
    }

    /// An incident with what its evidence holds, and how to take its heal back.
    async fn told(&self, incident: Incident) -> Result<(u8, serde_json::Value), String> {
        let job = Job::ListEvidence { folder: self.cx.journal.evidence(&incident.id) };
        let mut told = json!(incident);
        match self.cx.jobs.run(job, LIST_PATIENCE).await {
            Ok(Outcome::Evidence { kept }) if !kept.is_empty() => {
                told["evidence_files"] = json!(kept);
                told["rollback"] = json!(format!("guardiand rollback {}", incident.id));
            }
            Ok(_) => {}
            Err(failure) => told["evidence_error"] = json!(failure.message),
        }
        Ok((0, told))
    }

    fn status(&self) -> (u8, serde_json::Value) {
        let board = self.cx.board.read().unwrap_or_else(PoisonError::into_inner);
        let targets = board.targets().collect::<Vec<_>>();
        (0, json!({ "totals": board.totals(), "targets": targets }))
    }
}
