//! HTTP and the control socket.

use std::sync::{Arc, RwLock};

use tokio::sync::mpsc;

use crate::config::Config;
use crate::supervisor::status::{Pulse, StatusBoard};
use crate::supervisor::{Context, Message};

use super::DaemonError;

pub(super) async fn listen(
    _config: &Config,
    _cx: &Context,
    _board: &Arc<RwLock<StatusBoard>>,
    _pulse: &Arc<Pulse>,
    _outbox: &mpsc::UnboundedSender<Message>,
) -> Result<(), DaemonError> {
    Ok(())
}
