//! What a process and its reaped children cost, from /proc.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// CPU and reads of a process and of all children that it has waited for.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    /// CPU seconds, user and system.
    pub cpu: f64,
    /// Bytes that read calls returned, from files, pipes and /proc alike.
    pub read_chars: u64,
    /// Bytes that storage delivered.
    pub read_disk: u64,
}

impl Usage {
    pub fn of(pid: u32) -> Usage {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        // proc_pid_stat(5): utime, stime, cutime and cstime are fields 14 to 17; the state after the name is field 3.
        let ticks: u64 = fields[11..15].iter().map(|field| field.parse::<u64>().unwrap()).sum();
        let io = std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap();
        let io: BTreeMap<&str, u64> = io
            .lines()
            .filter_map(|line| line.split_once(": "))
            .map(|(key, value)| (key, value.parse().unwrap()))
            .collect();
        Usage {
            cpu: ticks as f64 / rustix::param::clock_ticks_per_second() as f64,
            read_chars: io["rchar"],
            read_disk: io["read_bytes"],
        }
    }

    pub fn since(self, before: Usage) -> Usage {
        Usage {
            cpu: self.cpu - before.cpu,
            read_chars: self.read_chars - before.read_chars,
            read_disk: self.read_disk - before.read_disk,
        }
    }
}

/// A memory figure of a process, in bytes: `VmRSS`, `VmHWM`.
pub fn memory(pid: u32, name: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? << 10)
}

/// The most that any child of a process had resident, as far as quick looks at it see, over some time.
pub fn worker_peak(pid: u32, during: Duration) -> u64 {
    let until = Instant::now() + during;
    let mut peak = 0;
    while Instant::now() < until {
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        for child in children.split_whitespace().filter_map(|pid| pid.parse().ok()) {
            // Between fork and exec a child is its parent still.
            let is_worker = std::fs::read(format!("/proc/{child}/cmdline"))
                .is_ok_and(|line| line.split(|byte| *byte == 0).nth(1) == Some(b"worker"));
            if is_worker {
                peak = peak.max(memory(child, "VmHWM").unwrap_or(0));
            }
        }
    }
    peak
}
