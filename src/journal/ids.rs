//! Names of incidents: `20261122T030405.123Z-0a1b2c`, which sort by time.

use std::hash::{BuildHasher as _, RandomState};

use jiff::Timestamp;

use crate::model::IncidentId;

/// A new name. The six hex digits keep two incidents of one millisecond apart.
pub fn new_id(now: Timestamp) -> IncidentId {
    let random = RandomState::new().hash_one(now.as_nanosecond()) & 0xff_ffff;
    IncidentId(format!("{}-{random:06x}", file_time(now)))
}

/// UTC with milliseconds, safe as a file name, sorting by time.
fn file_time(at: Timestamp) -> String {
    let seconds = at.strftime("%Y%m%dT%H%M%S");
    format!("{seconds}.{:03}Z", at.subsec_millisecond().max(0))
}

/// True when `name` has the form of an incident's name: nothing else below `incidents/` is touched.
pub fn is_id(name: &str) -> bool {
    let shape = |byte: u8| match byte {
        b'0'..=b'9' => b'0',
        b'a'..=b'f' => b'a',
        other => other,
    };
    let Some((time, random)) = name.split_once('-') else { return false };
    time.bytes().map(shape).eq(*b"00000000T000000.000Z")
        && random.len() == 6
        && random.bytes().all(|byte| matches!(shape(byte), b'0' | b'a'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_sort_by_time_and_are_recognised() {
        let early: Timestamp = "2026-11-22T03:04:05.123Z".parse().unwrap();
        let late: Timestamp = "2026-11-22T03:04:05.124Z".parse().unwrap();
        let (a, b) = (new_id(early), new_id(late));
        assert!(a.0.starts_with("20261122T030405.123Z-"), "{a}");
        assert!(a < b);
        assert!(is_id(&a.0) && is_id(&b.0));
        for other in
            ["", "lost+found", "20261122T030405.123Z", "20261122T030405.123Z-0a1b2", "20261122T030405.123Z-0a1b2G"]
        {
            assert!(!is_id(other), "{other}");
        }
    }
}
