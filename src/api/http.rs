//! The endpoints.

use std::collections::HashMap;
use std::sync::PoisonError;
use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router, middleware};
use serde_json::json;

use super::{Shared, guard, page, stats};
use crate::model::{IncidentId, IncidentState, rfc3339_millis};
use crate::supervisor::status::StatusBoard;
use crate::telemetry;

/// The main loop comes round far more often; the watchdog of systemd waits as long.
const SILENCE_MAX: Duration = Duration::from_secs(30);

const INCIDENTS_DEFAULT: usize = 100;
const INCIDENTS_MAX: usize = 1000;
const HOURS_DEFAULT: u32 = 24;
const HOURS_MAX: u32 = 24 * 366;

const STATES: [IncidentState; 6] = [
    IncidentState::Open,
    IncidentState::AwaitingApproval,
    IncidentState::Healing,
    IncidentState::Verifying,
    IncidentState::Escalated,
    IncidentState::Closed,
];

pub(super) fn router(shared: Shared) -> Router {
    let hosts = shared.hosts.clone();
    Router::new()
        .route("/", get(status_page))
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/api/v1/status", get(status))
        .route("/api/v1/targets/{*name}", get(target))
        .route("/api/v1/incidents", get(incidents))
        .route("/api/v1/incidents/{id}", get(incident))
        .route("/api/v1/stats", get(statistics))
        .fallback(async || problem(StatusCode::NOT_FOUND, "there is nothing here"))
        .layer(middleware::from_fn_with_state(hosts, guard::guard))
        .with_state(shared)
}

/// An error as JSON, for scripts.
pub(super) fn problem(status: StatusCode, message: &str) -> Response {
    (status, Json(json!({ "error": message }))).into_response()
}

impl Shared {
    fn with_board<T>(&self, read: impl FnOnce(&StatusBoard) -> T) -> T {
        read(&self.board.read().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn metrics(State(shared): State<Shared>) -> Response {
    match telemetry::render(&(shared.process)()) {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response(),
        Err(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

async fn healthz(State(shared): State<Shared>) -> Response {
    let silence = shared.pulse.age(shared.clock.now());
    if silence <= SILENCE_MAX {
        return "ok\n".into_response();
    }
    let words = format!("the main loop has been silent for {} s\n", silence.as_secs());
    (StatusCode::SERVICE_UNAVAILABLE, words).into_response()
}

async fn readyz(State(shared): State<Shared>) -> Response {
    match shared.pulse.is_ready() {
        true => "ready\n".into_response(),
        false => (StatusCode::SERVICE_UNAVAILABLE, "the first sweep is not done yet\n").into_response(),
    }
}

async fn status(State(shared): State<Shared>) -> Response {
    let now = shared.clock.now();
    let uptime = now.wall.duration_since(shared.started_at).as_secs_f64();
    shared.with_board(|board| {
        Json(json!({
            "version": env!("CARGO_PKG_VERSION"),
            "started_at": rfc3339_millis(shared.started_at),
            "uptime_seconds": uptime,
            "ready": shared.pulse.is_ready(),
            "totals": board.totals(),
            "targets": board.targets().collect::<Vec<_>>(),
        }))
        .into_response()
    })
}

async fn target(State(shared): State<Shared>, Path(name): Path<String>) -> Response {
    shared.with_board(|board| match board.target(&name) {
        Some(target) => Json(target).into_response(),
        None => problem(StatusCode::NOT_FOUND, &format!("no target is called `{name}`")),
    })
}

type Asked = Query<HashMap<String, String>>;

/// A number from the query, within bounds.
fn number<N>(asked: &HashMap<String, String>, key: &str, default: N, max: N) -> Result<N, Box<Response>>
where
    N: std::str::FromStr + PartialOrd + From<u8> + std::fmt::Display,
{
    let Some(text) = asked.get(key) else { return Ok(default) };
    match text.parse::<N>() {
        Ok(number) if number >= N::from(1) && number <= max => Ok(number),
        _ => Err(Box::new(problem(StatusCode::BAD_REQUEST, &format!("`{key}` must be a number from 1 to {max}")))),
    }
}

async fn incidents(State(shared): State<Shared>, Query(asked): Asked) -> Response {
    let limit = match number(&asked, "limit", INCIDENTS_DEFAULT, INCIDENTS_MAX) {
        Ok(limit) => limit,
        Err(refusal) => return *refusal,
    };
    let state = asked.get("state").cloned();
    if let Some(state) = &state
        && !STATES.iter().any(|known| known.name() == state)
    {
        let known = STATES.map(IncidentState::name).join(", ");
        return problem(StatusCode::BAD_REQUEST, &format!("`state` must be one of {known}"));
    }
    match shared.incidents.incidents(asked.get("target").cloned(), state, limit).await {
        Ok(incidents) => Json(json!({ "incidents": incidents })).into_response(),
        Err(error) => problem(StatusCode::SERVICE_UNAVAILABLE, &error),
    }
}

async fn incident(State(shared): State<Shared>, Path(id): Path<String>) -> Response {
    match shared.incidents.incident(IncidentId(id.clone())).await {
        Ok(Some(incident)) => Json(incident).into_response(),
        Ok(None) => problem(StatusCode::NOT_FOUND, &format!("no incident is called `{id}`")),
        Err(error) => problem(StatusCode::SERVICE_UNAVAILABLE, &error),
    }
}

async fn statistics(State(shared): State<Shared>, Query(asked): Asked) -> Response {
    let hours = match number(&asked, "hours", HOURS_DEFAULT, HOURS_MAX) {
        Ok(hours) => hours,
        Err(refusal) => return *refusal,
    };
    match shared.incidents.history(hours).await {
        Ok(stories) => shared.with_board(|board| Json(stats(hours, &stories, board)).into_response()),
        Err(error) => problem(StatusCode::SERVICE_UNAVAILABLE, &error),
    }
}

async fn status_page(State(shared): State<Shared>) -> Response {
    let recent = shared.incidents.incidents(None, None, 10).await;
    let now = shared.clock.now();
    Html(shared.with_board(|board| page::render(board, &recent, shared.started_at, now.wall))).into_response()
}
