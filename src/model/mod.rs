//! Values that every room speaks in: no IO, nothing of the crate beneath.

mod app;
mod check;
mod fault;
mod finding;
pub mod glob;
mod in_use;
mod incident;
mod loss;
mod notice;
mod plan;
mod restart;
mod shown;
mod spelled;

pub use app::{App, Program};
pub use check::{Check, LOCKED_BY_A_PROGRAM, LOCKED_FOR_NOW, LayerResult, LayerVerdict, Verdict};
pub use fault::FaultClass;
pub use finding::{Finding, Kind, Layer, Severity};
pub use in_use::{Holder, InUse, LockHeld, Standstill};
pub(crate) use incident::millis;
pub use incident::{
    Illegal, Incident, IncidentEvent, IncidentId, IncidentState, Resolution, Rung, StepOutcome, StepRecord,
};
pub(crate) use incident::{millis_option, rfc3339_millis};
pub use loss::{Loss, TableLoss};
pub use notice::{Notice, Occasion};
pub use plan::{Plan, Playbook, Policy, Risk, StepSpec};
pub use restart::RestartReason;
pub use shown::{for_shell, is_unseen, shown, shown_json, shown_lines};
pub use spelled::{Bytes, Delay, Period, parse_duration, parse_positive_duration, parse_size};
