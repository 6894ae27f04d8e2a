//! `/proc/locks`: every lock of the host, with a process's name to most of them.
//!
//! For names, not for the truth: another PID namespace's holders, locks through an overlay's upper folder and those
//! on other machines are missing here. The truth is [`super::ask_lock`].

use std::collections::HashMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::error::HostError;
use super::facts::Device;
use super::procfs;

/// Who owns a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LockKind {
    /// A process (`fcntl` `F_SETLK`): what SQLite takes.
    Posix,
    /// An open file description (`F_OFD_SETLK`); the kernel names no process.
    Ofd,
    /// An open file description (`flock(2)`); never in conflict with the others on a local file system.
    Flock,
    /// A lease or delegation.
    Lease,
}

/// Shared or exclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LockMode {
    /// Shared.
    Read,
    /// Exclusive.
    Write,
}

/// One lock, or one process that waits for one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lock {
    /// Who owns it.
    pub kind: LockKind,
    /// Shared or exclusive.
    pub mode: LockMode,
    /// The process, as this PID namespace numbers it; `None` for an open file description's lock.
    pub pid: Option<i32>,
    /// First byte.
    pub start: u64,
    /// Last byte, itself locked; `u64::MAX` for "to the end, however far".
    pub end: u64,
    /// Not held: this process waits for it.
    pub blocked: bool,
}

impl Lock {
    /// Whether it covers any byte of `first..=last`.
    pub fn touches(&self, first: u64, last: u64) -> bool {
        self.start <= last && self.end >= first
    }
}

/// All locks at one instant, by file; read once per sweep (SQLITE.md, rule 22).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LockTable(HashMap<(Device, u64), Vec<Lock>>);

impl LockTable {
    /// Reads `/proc/locks`.
    ///
    /// # Errors
    /// [`HostError::ReadProc`].
    pub fn read() -> Result<LockTable, HostError> {
        Ok(LockTable::parse(&procfs::text(Path::new("/proc/locks"))?))
    }

    /// Parses the text of `/proc/locks`; a line that cannot be understood is left out.
    pub fn parse(text: &str) -> LockTable {
        let mut table: HashMap<_, Vec<Lock>> = HashMap::new();
        for (file, lock) in text.lines().filter_map(parse_line) {
            table.entry(file).or_default().push(lock);
        }
        LockTable(table)
    }

    /// The locks on one file, by the device of [`super::Mounts::lock_device`] and its inode; waiters included.
    pub fn of(&self, device: Device, ino: u64) -> &[Lock] {
        self.0.get(&(device, ino)).map_or(&[], Vec::as_slice)
    }
}

fn parse_line(line: &str) -> Option<((Device, u64), Lock)> {
    // 1: POSIX  ADVISORY  WRITE 4242 fe:00:1234 1073741824 1073742335
    // 1: -> POSIX  ADVISORY  READ 4243 fe:00:1234 0 EOF
    let mut words = line.split_ascii_whitespace().skip(1).peekable();
    let blocked = words.next_if_eq(&"->").is_some();
    let kind = match words.next()? {
        "POSIX" => LockKind::Posix,
        "OFDLCK" => LockKind::Ofd,
        "FLOCK" => LockKind::Flock,
        "LEASE" | "DELEG" => LockKind::Lease,
        _ => return None,
    };
    let _advisory = words.next()?;
    let mode = match words.next()? {
        "READ" => LockMode::Read,
        "WRITE" => LockMode::Write,
        _ => return None,
    };
    // Open file descriptions have no process: -1.
    let pid = words.next()?.parse::<i32>().ok()?;
    let mut file = words.next()?.split(':');
    // Device numbers are hexadecimal here, unlike everywhere else in /proc.
    let major = u32::from_str_radix(file.next()?, 16).ok()?;
    let minor = u32::from_str_radix(file.next()?, 16).ok()?;
    let ino = file.next()?.parse().ok()?;
    let start = words.next()?.parse().ok()?;
    let end = match words.next()? {
        "EOF" => u64::MAX,
        number => number.parse().ok()?,
    };
    let lock = Lock { kind, mode, pid: (pid > 0).then_some(pid), start, end, blocked };
    Some(((Device { major, minor }, ino), lock))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = "\
1: POSIX  ADVISORY  WRITE 4242 fe:00:1234 1073741824 1073742335
1: -> POSIX  ADVISORY  READ 4243 fe:00:1234 1073741824 1073741824
1:  -> POSIX  ADVISORY  WRITE 4244 fe:00:1234 1073741825 1073741825
2: OFDLCK ADVISORY  READ -1 00:1f:77 0 EOF
3: FLOCK  ADVISORY  WRITE 900 fe:00:99 0 EOF
4: LEASE  ACTIVE    READ 901 fe:00:98 0 EOF
5: POSIX  *NOINODE* READ 1 <none>:0 0 EOF
6: NONSENSE
";

    #[test]
    fn every_kind_of_line_is_understood_and_odd_ones_left_out() {
        let table = LockTable::parse(SAMPLE);
        let main = table.of(Device { major: 0xfe, minor: 0 }, 1234);
        assert_eq!(main.len(), 3);
        assert_eq!(
            main[0],
            Lock {
                kind: LockKind::Posix,
                mode: LockMode::Write,
                pid: Some(4242),
                start: 1_073_741_824,
                end: 1_073_742_335,
                blocked: false
            }
        );
        assert_eq!((main[1].blocked, main[1].pid, main[1].mode), (true, Some(4243), LockMode::Read));
        assert!(main[2].blocked);
        let ofd = &table.of(Device { major: 0, minor: 0x1f }, 77)[0];
        assert_eq!((ofd.kind, ofd.pid, ofd.end), (LockKind::Ofd, None, u64::MAX));
        assert_eq!(table.of(Device { major: 0xfe, minor: 0 }, 99)[0].kind, LockKind::Flock);
        assert_eq!(table.of(Device { major: 0xfe, minor: 0 }, 98)[0].kind, LockKind::Lease);
        assert!(table.of(Device { major: 1, minor: 1 }, 1).is_empty());
        assert_eq!(table.0.len(), 4);
    }

    #[test]
    fn touching_counts_both_ends() {
        let lock = Lock { kind: LockKind::Posix, mode: LockMode::Read, pid: None, start: 10, end: 20, blocked: false };
        for (first, last, touches) in [(0, 9, false), (0, 10, true), (15, 15, true), (20, 99, true), (21, 99, false)] {
            assert_eq!(lock.touches(first, last), touches, "{first}..={last}");
        }
    }
}
