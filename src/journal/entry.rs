//! One line of an incident's log.
//!
//! ```text
//! {"sum":"<16 hex of BLAKE3 over record's bytes>","record":{"v":1,"seq":0,"at":"…","boot_ms":1,"entry":{"event":"opened",…}}}
//! ```
//!
//! The sum covers the record's bytes as they stand in the line, so that a reader checks it without knowing what a
//! newer version put there.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::clock::Moment;
use crate::job::Phase;
use crate::model::{Incident, IncidentId, Loss, Playbook, StepRecord, StepSpec};

/// The shape's version that this program writes.
pub const VERSION: u32 = 1;

/// What happened to an incident. Add variants and fields (with defaults); rename none: older logs must stay readable.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Entry {
    /// The first of every log.
    Opened {
        /// As it was opened.
        incident: Box<Incident>,
    },
    /// What will be tried, in order. A later plan replaces an earlier one.
    Planned {
        /// The playbooks.
        playbooks: Vec<Playbook>,
        /// Why a person must say yes to it, whatever the policy.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        approval: Option<String>,
    },
    /// A person must say yes to what is planned.
    Asked {
        /// To what, and how.
        reason: String,
    },
    /// A person said yes to what was planned last.
    Approved {
        /// The user, as the kernel told it of the control socket's other end.
        by: u32,
    },
    /// A playbook begins.
    PlaybookBegan {
        /// Its place in the plan.
        index: usize,
        /// Its name.
        name: String,
    },
    /// A person wants a heal taken back: this incident's, or that of a closed one. The playbook that begins next does it.
    RollingBack {
        /// The incident whose heal is taken back.
        of: IncidentId,
        /// Who asked, in words.
        by: String,
        /// What was committed since that heal, and goes with it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        loss: Option<Loss>,
    },
    /// A person lets it be healed like any other again, although a heal of it was taken back.
    HoldLifted {
        /// The user, as the kernel told it of the control socket's other end.
        by: u32,
    },
    /// A step is about to be applied, or taken back. Durable before the first byte changes.
    StepIntended {
        /// Its playbook's place in the plan.
        playbook: usize,
        /// Its place in the playbook.
        index: usize,
        /// The step.
        spec: StepSpec,
        /// What is about to be done with it.
        #[serde(default = "apply")]
        phase: Phase,
    },
    /// The intended step came to this.
    StepEnded {
        /// Its playbook's place in the plan.
        playbook: usize,
        /// Its place in the playbook.
        index: usize,
        /// What it did.
        record: StepRecord,
        /// What is lost if its playbook is what heals.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        loss: Option<Loss>,
    },
    /// A step that a crash interrupted was finished or taken back, and came to this.
    StepResumed {
        /// Its playbook's place in the plan.
        playbook: usize,
        /// Its place in the playbook.
        index: usize,
        /// What the resume did.
        record: StepRecord,
        /// What is lost if its playbook is what heals.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        loss: Option<Loss>,
    },
    /// Every step of the playbook is done; the detector runs in full.
    Verifying,
    /// The detector says healthy.
    Proved {
        /// The check, as INTERFACE has it.
        check: serde_json::Value,
    },
    /// The detector still sees the failure.
    Disproved {
        /// The check, as INTERFACE has it.
        check: serde_json::Value,
    },
    /// A gate held the heal back.
    Deferred {
        /// Which, and until when.
        reason: String,
    },
    /// The daemon died or stopped in the middle, or something else was wrong all at once; its steps are finished or taken back. Or
    /// they are done and stay, and something mild is left. Planned anew from here.
    Interrupted,
    /// A person is needed.
    Escalated {
        /// Why, and the exact next command.
        reason: String,
        /// What was tried was held up, and did nothing: it is tried again by itself, also after a restart.
        #[serde(default)]
        held: bool,
    },
    /// Healthy again by itself.
    Recovered,
    /// The last of a log, but for [`Entry::RolledBack`] and [`Entry::EvidenceExpired`].
    Closed {
        /// As it was closed.
        incident: Box<Incident>,
    },
    /// What can follow: the heal of this incident was taken back…
    RolledBack {
        /// By which incident.
        within: IncidentId,
        /// Who asked, in words.
        by: String,
    },
    /// … and the files as they were are kept no longer.
    EvidenceExpired,
}

fn apply() -> Phase {
    Phase::Apply
}

impl Entry {
    /// The entry's name in the log.
    pub fn name(&self) -> &'static str {
        match self {
            Entry::Opened { .. } => "opened",
            Entry::Planned { .. } => "planned",
            Entry::Asked { .. } => "asked",
            Entry::Approved { .. } => "approved",
            Entry::PlaybookBegan { .. } => "playbook_began",
            Entry::RollingBack { .. } => "rolling_back",
            Entry::HoldLifted { .. } => "hold_lifted",
            Entry::StepIntended { .. } => "step_intended",
            Entry::StepEnded { .. } => "step_ended",
            Entry::StepResumed { .. } => "step_resumed",
            Entry::Verifying => "verifying",
            Entry::Proved { .. } => "proved",
            Entry::Disproved { .. } => "disproved",
            Entry::Deferred { .. } => "deferred",
            Entry::Interrupted => "interrupted",
            Entry::Escalated { .. } => "escalated",
            Entry::Recovered => "recovered",
            Entry::Closed { .. } => "closed",
            Entry::RolledBack { .. } => "rolled_back",
            Entry::EvidenceExpired => "evidence_expired",
        }
    }
}

/// An entry as it was read back.
#[derive(Debug, Clone, PartialEq)]
pub enum Read {
    /// One that this version knows.
    Known(Entry),
    /// One that a newer version wrote. Kept in the file, skipped, and said.
    Unknown {
        /// Its name.
        name: String,
        /// Why it is not understood.
        reason: String,
    },
}

/// One line, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Its place in the log, from 0.
    pub seq: u64,
    /// When it was written.
    pub at: Moment,
    /// What happened.
    pub entry: Read,
}

#[derive(Serialize)]
struct WireOut<'a> {
    v: u32,
    seq: u64,
    at: Timestamp,
    boot_ms: u64,
    entry: &'a Entry,
}

#[derive(Deserialize)]
struct WireIn<'a> {
    seq: u64,
    at: Timestamp,
    boot_ms: u64,
    #[serde(borrow)]
    entry: &'a RawValue,
}

#[derive(Serialize, Deserialize)]
struct Line<'a> {
    sum: &'a str,
    #[serde(borrow)]
    record: &'a RawValue,
}

#[derive(Deserialize)]
struct Tag {
    event: String,
}

/// The line for `entry`, newline included.
///
/// # Errors
/// When the entry holds something that JSON cannot say.
pub fn encode(seq: u64, at: Moment, entry: &Entry) -> Result<Vec<u8>, serde_json::Error> {
    let record = WireOut { v: VERSION, seq, at: at.wall, boot_ms: at.boot_ms, entry };
    let record = RawValue::from_string(serde_json::to_string(&record)?)?;
    let sum = sum_of(record.get());
    let mut line = serde_json::to_vec(&Line { sum: &sum, record: &record })?;
    line.push(b'\n');
    Ok(line)
}

/// What a line (without its newline) says.
///
/// # Errors
/// Why it cannot be trusted.
pub fn decode(line: &[u8]) -> Result<Record, String> {
    let line: Line<'_> = serde_json::from_slice(line).map_err(|error| format!("it is not a journal line: {error}"))?;
    let sum = sum_of(line.record.get());
    if sum != line.sum {
        return Err(format!("its checksum is {sum}, the line says {}", line.sum));
    }
    let wire: WireIn<'_> =
        serde_json::from_str(line.record.get()).map_err(|error| format!("its record has another shape: {error}"))?;
    let entry = match serde_json::from_str::<Entry>(wire.entry.get()) {
        Ok(entry) => Read::Known(entry),
        Err(error) => Read::Unknown {
            name: serde_json::from_str::<Tag>(wire.entry.get()).map(|tag| tag.event).unwrap_or_default(),
            reason: error.to_string(),
        },
    };
    Ok(Record { seq: wire.seq, at: Moment { wall: wire.at, boot_ms: wire.boot_ms }, entry })
}

fn sum_of(record: &str) -> String {
    let mut hex = blake3::hash(record.as_bytes()).to_hex().to_string();
    hex.truncate(16);
    hex
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment() -> Moment {
        Moment { wall: Timestamp::from_second(1_700_000_000).unwrap(), boot_ms: 42 }
    }

    #[test]
    fn a_line_reads_back_as_it_was_written() {
        let reason = "no backup; put one into \"/b\"\nand run `guardiand heal`".into();
        let entry = Entry::Escalated { reason, held: false };
        let line = encode(7, moment(), &entry).unwrap();
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1, "one line");
        let record = decode(&line[..line.len() - 1]).unwrap();
        assert_eq!(record, Record { seq: 7, at: moment(), entry: Read::Known(entry) });
    }

    #[test]
    fn every_flipped_bit_of_a_line_is_noticed() {
        let line = encode(0, moment(), &Entry::Deferred { reason: "cooldown".into() }).unwrap();
        let line = &line[..line.len() - 1];
        let good = decode(line).unwrap();
        for at in 0..line.len() {
            for bit in 0..8 {
                let mut hurt = line.to_vec();
                hurt[at] ^= 1 << bit;
                assert_ne!(decode(&hurt).ok().as_ref(), Some(&good), "byte {at}, bit {bit}");
            }
        }
    }

    #[test]
    fn an_entry_of_a_newer_version_is_kept_and_said() {
        let record =
            r#"{"v":2,"seq":3,"at":"2026-11-22T03:00:00Z","boot_ms":5,"entry":{"event":"teleported","to":"mars"}}"#;
        let line = format!(r#"{{"sum":"{}","record":{record}}}"#, sum_of(record));
        let read = decode(line.as_bytes()).unwrap();
        assert!(matches!(read.entry, Read::Unknown { name, .. } if name == "teleported"));
    }
}
