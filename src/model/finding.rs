//! What is wrong, in words that metrics, people and playbooks share.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

/// The name of a failure, such as `db_file_missing`. Each mode lists its own; they are promises to users.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Kind(Cow<'static, str>);

impl Kind {
    /// A kind named by a constant of its mode.
    pub const fn new(name: &'static str) -> Kind {
        Kind(Cow::Borrowed(name))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The part of a target that a detector looks at, in the order of its looking.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Layer(Cow<'static, str>);

impl Layer {
    /// A layer named by a constant of its mode.
    pub const fn new(name: &'static str) -> Layer {
        Layer(Cow::Borrowed(name))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How bad, from the user's side: critical means that the program cannot work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing.
    Low,
    /// Will become a failure if it goes on.
    Medium,
    /// The program is hurt.
    High,
    /// The program cannot work, or data is in danger.
    Critical,
}

/// One thing that is wrong with one target.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// Which failure.
    pub kind: Kind,
    /// How bad.
    pub severity: Severity,
    /// The layer that noticed it.
    pub layer: Layer,
    /// What was seen, with the numbers.
    pub detail: String,
    /// SQLite's extended result code, where SQLite said it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub sqlite_code: Option<i32>,
    /// What guardiand, or a person, can do about it.
    pub remediation: String,
    /// What is lost if this goes away by itself: then somebody has thrown away what was damaged, with all that could be read of it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub at_stake: Option<String>,
}
