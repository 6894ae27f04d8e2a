//! The usual seven figures of the process itself, by the names that every Prometheus client library uses.

use std::fmt::Write;

/// What the kernel says of this process; taken by the caller, since this room does no IO.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ProcessSample {
    /// User and system time, in seconds.
    pub cpu_seconds: f64,
    /// Open descriptors.
    pub open_fds: u64,
    /// The soft limit of open descriptors.
    pub max_fds: u64,
    /// Address space, in bytes.
    pub virtual_bytes: u64,
    /// The limit of the address space, in bytes; `u64::MAX` when there is none.
    pub virtual_max_bytes: u64,
    /// Resident memory, in bytes.
    pub resident_bytes: u64,
    /// When the process started, in seconds since the epoch.
    pub start_time_seconds: f64,
}

/// Appends the figures in Prometheus' text format.
pub(super) fn append(text: &mut String, sample: &ProcessSample) {
    // Only `process_virtual_memory_max_bytes` may be without a limit; the other clients say -1 then.
    let virtual_max = match sample.virtual_max_bytes {
        u64::MAX => "-1".to_owned(),
        bytes => bytes.to_string(),
    };
    let lines = [
        ("process_cpu_seconds_total", "counter", "User and system CPU time.", sample.cpu_seconds.to_string()),
        ("process_open_fds", "gauge", "Open file descriptors.", sample.open_fds.to_string()),
        ("process_max_fds", "gauge", "Limit of open file descriptors.", sample.max_fds.to_string()),
        ("process_virtual_memory_bytes", "gauge", "Address space.", sample.virtual_bytes.to_string()),
        ("process_virtual_memory_max_bytes", "gauge", "Limit of the address space; -1 without one.", virtual_max),
        ("process_resident_memory_bytes", "gauge", "Resident memory.", sample.resident_bytes.to_string()),
        ("process_start_time_seconds", "gauge", "Start time since the epoch.", sample.start_time_seconds.to_string()),
    ];
    for (name, kind, help, value) in lines {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
    }
}
