//! The usual figures of this process.

use crate::telemetry::ProcessSample;
use rustix::process::{Resource, getrlimit};

/// What the kernel says of this process now; zeros where it says nothing.
pub fn process_sample() -> ProcessSample {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The command's name may hold spaces and parentheses: fields are counted from the last one on (proc(5)).
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields).split_ascii_whitespace().collect::<Vec<_>>();
    let field = |number: usize| fields.get(number - 3).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    let ticks = rustix::param::clock_ticks_per_second() as f64;
    let booted = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let booted =
        booted.lines().find_map(|line| line.strip_prefix("btime ")).and_then(|at| at.trim().parse::<f64>().ok());
    ProcessSample {
        cpu_seconds: (field(14) + field(15)) as f64 / ticks,
        open_fds: std::fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64),
        max_fds: getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX),
        virtual_bytes: field(23),
        virtual_max_bytes: getrlimit(Resource::As).current.unwrap_or(u64::MAX),
        resident_bytes: field(24) * rustix::param::page_size() as u64,
        start_time_seconds: booted.unwrap_or(0.0) + field(22) as f64 / ticks,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figures_are_those_of_a_living_process() {
        let sample = process_sample();
        assert!(sample.resident_bytes > 1 << 20 && sample.virtual_bytes >= sample.resident_bytes, "{sample:?}");
        assert!(sample.open_fds >= 3 && sample.max_fds >= sample.open_fds, "{sample:?}");
        assert!(sample.start_time_seconds > 1.6e9, "{sample:?}");
    }
}
