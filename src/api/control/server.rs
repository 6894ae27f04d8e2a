//! The answering side, in the daemon.

use std::fs::{DirBuilder, Permissions};
use std::future::Future;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use super::{ControlReply, ControlRequest};
use crate::telemetry::ControlAsked;

/// A request is short.
const REQUEST_BYTES_MAX: u64 = 64 * 1024;
/// A peer that says nothing must not hold a connection.
const REQUEST_PATIENCE: Duration = Duration::from_secs(5);
/// People and scripts on one host.
const CONNECTIONS_MAX: usize = 64;

/// Who asks, as the kernel says (SO_PEERCRED, unix(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// The process; `None` when it is of another PID namespace.
    pub pid: Option<i32>,
    /// Its user.
    pub uid: u32,
}

/// Does what is asked.
pub type Handler =
    Arc<dyn Fn(ControlRequest, Peer) -> Pin<Box<dyn Future<Output = ControlReply> + Send>> + Send + Sync>;

/// Why there is no socket.
#[derive(Debug, Error)]
pub enum ControlError {
    /// Another daemon answers on it.
    #[error("another guardiand answers on {0}: stop it first, or set another `control`")]
    InUse(PathBuf),
    /// Something else has the path.
    #[error("{0} is there and is not a socket: move it away, or set another `control`")]
    NotASocket(PathBuf),
    /// The socket cannot be made.
    #[error("cannot make the control socket {path}: {source}")]
    Make {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// The socket's file; removed when dropped, if it is still ours.
#[derive(Debug)]
struct Listening {
    listener: UnixListener,
    path: PathBuf,
    inode: u64,
}

impl Drop for Listening {
    fn drop(&mut self) {
        if std::fs::symlink_metadata(&self.path).is_ok_and(|facts| facts.ino() == self.inode) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Listens at `path`, then answers until the returned future is dropped. A stale socket is replaced, a live one refused.
///
/// # Errors
/// [`ControlError`] when the socket cannot be had.
pub fn serve(path: &Path, handler: Handler) -> Result<impl Future<Output = ()> + Send + use<>, ControlError> {
    let listening = listen(path)?;
    Ok(async move {
        let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
            match listening.listener.accept().await {
                Ok((stream, _)) => {
                    let handler = Arc::clone(&handler);
                    tokio::spawn(async move {
                        // A peer that went away has nobody left to tell.
                        let _ = answer(stream, handler).await;
                        drop(slot);
                    });
                }
                // Out of descriptors: wait for some to come back rather than spin.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    })
}

fn listen(path: &Path) -> Result<Listening, ControlError> {
    let make = |source| ControlError::Make { path: path.to_path_buf(), source };
    if let Some(folder) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o750).create(folder).map_err(make)?;
    }
    match std::fs::symlink_metadata(path) {
        Ok(facts) if !facts.file_type().is_socket() => return Err(ControlError::NotASocket(path.to_path_buf())),
        Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => {
            return Err(ControlError::InUse(path.to_path_buf()));
        }
        _ => {}
    }
    // Made aside and renamed in, so that it is never seen with wider permissions, and a stale one goes at the same instant.
    let mut aside = path.as_os_str().to_owned();
    aside.push(".new");
    let aside = PathBuf::from(aside);
    match std::fs::remove_file(&aside) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(make(error)),
        _ => {}
    }
    let listener = UnixListener::bind(&aside).map_err(make)?;
    std::fs::set_permissions(&aside, Permissions::from_mode(0o660)).map_err(make)?;
    std::fs::rename(&aside, path).map_err(make)?;
    let inode = std::fs::symlink_metadata(path).map_err(make)?.ino();
    Ok(Listening { listener, path: path.to_path_buf(), inode })
}

async fn answer(stream: UnixStream, handler: Handler) -> std::io::Result<()> {
    let credentials = stream.peer_cred()?;
    let peer = Peer { pid: credentials.pid(), uid: credentials.uid() };
    let (read, mut write) = stream.into_split();
    let mut line = Vec::new();
    let mut limited = BufReader::new(read.take(REQUEST_BYTES_MAX));
    tokio::time::timeout(REQUEST_PATIENCE, limited.read_until(b'\n', &mut line)).await??;
    let reply = match serde_json::from_slice::<ControlRequest>(&line) {
        Ok(request) => {
            let (command, target) = request.subject();
            ControlAsked { command, target, pid: peer.pid, uid: peer.uid }.emit();
            handler(request, peer).await
        }
        Err(error) => ControlReply::Refused { exit: 2, message: format!("this request is not understood: {error}") },
    };
    let mut line = serde_json::to_vec(&reply)?;
    line.push(b'\n');
    write.write_all(&line).await?;
    write.shutdown().await
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::control::{AskError, ask};

    fn echo() -> Handler {
        Arc::new(|request, peer| {
            Box::pin(async move {
                let (command, target) = request.subject();
                ControlReply::Done { exit: 0, result: json!({ "command": command, "target": target, "uid": peer.uid }) }
            })
        })
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    }

    async fn ask_aside(path: &Path, request: ControlRequest) -> Result<ControlReply, AskError> {
        let path = path.to_path_buf();
        tokio::task::spawn_blocking(move || ask(&path, &request, Some(Duration::from_secs(10)))).await.unwrap()
    }

    #[test]
    fn a_request_is_answered_and_its_user_is_known() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/control.sock");
        runtime().block_on(async {
            let serving = tokio::spawn(serve(&path, echo()).unwrap());
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
            let reply =
                ask_aside(&path, ControlRequest::Heal { target: "app".to_owned(), dry_run: true }).await.unwrap();
            let uid = std::fs::metadata(&path).unwrap().uid();
            let result = json!({ "command": "heal", "target": "app", "uid": uid });
            assert_eq!(reply, ControlReply::Done { exit: 0, result });
            serving.abort();
            let _ = serving.await;
            assert!(!path.exists(), "the socket's file outlived its server");
            assert!(matches!(
                ask_aside(&path, ControlRequest::Status { target: None }).await,
                Err(AskError::NotRunning { .. })
            ));
        });
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        runtime().block_on(async {
            let serving = serve(&path, echo()).unwrap();
            assert!(matches!(serve(&path, echo()).map(drop), Err(ControlError::InUse(_))));
            drop(serving);
            std::fs::write(&path, "precious").unwrap();
            assert!(matches!(serve(&path, echo()).map(drop), Err(ControlError::NotASocket(_))));
        });
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn nonsense_is_refused_in_words() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        runtime().block_on(async {
            let serving = tokio::spawn(serve(&path, echo()).unwrap());
            for nonsense in ["\n", "{}\n", "{\"command\":\"format\"}\n", "\u{1}\n"] {
                let mut stream = UnixStream::connect(&path).await.unwrap();
                stream.write_all(nonsense.as_bytes()).await.unwrap();
                let mut answer = String::new();
                stream.read_to_string(&mut answer).await.unwrap();
                let reply: ControlReply = serde_json::from_str(&answer).unwrap();
                assert!(matches!(reply, ControlReply::Refused { exit: 2, .. }), "{answer}");
            }
            serving.abort();
        });
    }
}
