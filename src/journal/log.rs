//! An incident's append-only log: every entry is on disk before anybody acts on it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::entry::{Entry, Record, decode, encode};
use super::error::JournalError;
use crate::clock::Moment;

/// The log's name inside its incident's folder.
pub const LOG_NAME: &str = "log.jsonl";

/// A log longer than this was not written by us; reading stops there.
const LOG_MAX_BYTES: u64 = 256 << 20;

/// Durable appends of this process, for the failpoint.
static APPENDS: AtomicU64 = AtomicU64::new(0);

/// What a log file says.
#[derive(Debug, Default)]
pub struct Contents {
    /// The trusted records, in order.
    pub records: Vec<Record>,
    /// Bytes that they take from the file's start.
    pub trusted_bytes: u64,
    /// What follows them and is not trusted, in words.
    pub doubt: Option<Doubt>,
}

/// Why the end of a log is not trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Doubt {
    /// The last line has no end: a crash tore it, and nobody acted on it.
    Torn,
    /// A whole line cannot be trusted: somebody or something changed the file.
    Bad {
        /// Lines are counted from 1, as editors do.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
}

/// Reads a log. A torn last line is cut off; a bad line ends what is trusted.
///
/// # Errors
/// [`JournalError::Read`] when the file cannot be read.
pub fn read(path: &Path) -> Result<Contents, JournalError> {
    let failed = |source| JournalError::Read { path: path.to_owned(), source };
    let file = open_nofollow(OpenOptions::new().read(true), path).map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(LOG_MAX_BYTES).read_to_end(&mut bytes).map_err(failed)?;
    Ok(parse(&bytes))
}

/// What the bytes of a log say.
pub fn parse(bytes: &[u8]) -> Contents {
    let mut contents = Contents::default();
    for (number, line) in bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
        let Some(text) = line.strip_suffix(b"\n") else {
            contents.doubt = Some(Doubt::Torn);
            break;
        };
        let expected = contents.records.len() as u64;
        let judged = decode(text).and_then(|record| match record.seq {
            seq if seq == expected => Ok(record),
            seq => Err(format!("it is entry {seq} where entry {expected} belongs")),
        });
        match judged {
            Ok(record) => {
                contents.trusted_bytes += line.len() as u64;
                contents.records.push(record);
            }
            Err(reason) => {
                contents.doubt = Some(Doubt::Bad { line: number + 1, reason });
                break;
            }
        }
    }
    contents
}

/// The writing end of one log. It holds no file open between two appends: a thousand incidents at once must not use up the
/// descriptors that the children need, and a log whose folder was taken away must fail, not be written where nobody reads it.
#[derive(Debug)]
pub struct LogWriter {
    path: PathBuf,
    next_seq: u64,
}

impl LogWriter {
    /// Creates the log of a new incident, and makes its folder durable.
    ///
    /// # Errors
    /// When the log exists, or cannot be made durable.
    pub fn create(folder: &Path) -> Result<LogWriter, JournalError> {
        let path = folder.join(LOG_NAME);
        open_nofollow(OpenOptions::new().append(true).create_new(true), &path)
            .map_err(|source| JournalError::Create { path: path.clone(), source })?;
        sync_folder(folder)?;
        Ok(LogWriter { path, next_seq: 0 })
    }

    /// Opens a log to carry on after `contents`, cutting off what is not trusted. A bad end is first copied to
    /// `log.jsonl.damaged`: a person may want to read it.
    ///
    /// # Errors
    /// When the log cannot be opened or cut.
    pub fn carry_on(folder: &Path, contents: &Contents) -> Result<LogWriter, JournalError> {
        let path = folder.join(LOG_NAME);
        let failed = |source| JournalError::Cut { path: path.clone(), source };
        if let Some(Doubt::Bad { .. }) = contents.doubt {
            let kept = folder.join(format!("{LOG_NAME}.damaged"));
            std::fs::copy(&path, &kept).and_then(|_| File::open(&kept)?.sync_all()).map_err(failed)?;
        }
        let file = open_nofollow(OpenOptions::new().append(true), &path).map_err(failed)?;
        if contents.doubt.is_some() {
            file.set_len(contents.trusted_bytes).map_err(failed)?;
            file.sync_all().map_err(failed)?;
        }
        sync_folder(folder)?;
        Ok(LogWriter { path, next_seq: contents.records.len() as u64 })
    }

    /// The number of the next entry.
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// Appends an entry; it is durable when this returns.
    ///
    /// # Errors
    /// When it could not be made durable. A part of it that reached the file is cut off again.
    pub fn append(&mut self, at: Moment, entry: &Entry) -> Result<(), JournalError> {
        let line = encode(self.next_seq, at, entry).map_err(JournalError::Encode)?;
        let failed = |source| JournalError::Append { path: self.path.clone(), source };
        let mut file = open_nofollow(OpenOptions::new().append(true), &self.path).map_err(failed)?;
        let before = file.metadata().map_err(failed)?.len();
        if let Err(source) = file.write_all(&line).and_then(|()| file.sync_data()) {
            // Without this, the next append would stand behind half a line, and all after it would not be trusted.
            let _ = file.set_len(before);
            return Err(JournalError::Append { path: self.path.clone(), source });
        }
        self.next_seq += 1;
        let number = APPENDS.fetch_add(1, Ordering::Relaxed) + 1;
        tracing::debug!(append = number, entry = entry.name(), log = %self.path.display(), "journal entry is durable");
        failpoint(number);
        Ok(())
    }
}

/// Kills this process after the append that `GUARDIAND_KILL_AFTER_APPEND` numbers, or lets it stand still after that of
/// `GUARDIAND_STOP_AFTER_APPEND`, so that one test can end the daemon, or change something under it, between any two entries of any
/// playbook.
#[cfg(debug_assertions)]
fn failpoint(number: u64) {
    use rustix::process::{Signal, getpid, kill_process};
    for (name, signal) in [("GUARDIAND_KILL_AFTER_APPEND", Signal::KILL), ("GUARDIAND_STOP_AFTER_APPEND", Signal::STOP)]
    {
        let wanted = std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
        if wanted == Some(number) {
            let _ = kill_process(getpid(), signal);
        }
    }
}

#[cfg(not(debug_assertions))]
fn failpoint(_number: u64) {}

/// Makes the entries of a folder durable.
///
/// # Errors
/// [`JournalError::Folder`].
pub fn sync_folder(folder: &Path) -> Result<(), JournalError> {
    File::open(folder)
        .and_then(|open| open.sync_all())
        .map_err(|source| JournalError::Folder { path: folder.to_owned(), source })
}

fn open_nofollow(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    options.mode(0o600).custom_flags(flags.bits().cast_signed()).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::entry::Read;

    fn moment(ms: u64) -> Moment {
        Moment { wall: jiff::Timestamp::from_millisecond(1_700_000_000_000 + ms.cast_signed()).unwrap(), boot_ms: ms }
    }

    fn filled(folder: &Path) -> PathBuf {
        let mut log = LogWriter::create(folder).unwrap();
        for number in 0..4 {
            log.append(moment(number), &Entry::Deferred { reason: format!("reason {number}") }).unwrap();
        }
        folder.join(LOG_NAME)
    }

    #[test]
    fn what_was_appended_reads_back() {
        let folder = tempfile::tempdir().unwrap();
        let contents = read(&filled(folder.path())).unwrap();
        assert_eq!(contents.records.len(), 4);
        assert_eq!(contents.doubt, None);
        assert_eq!(contents.records[2].entry, Read::Known(Entry::Deferred { reason: "reason 2".into() }));
    }

    #[test]
    fn a_tear_at_any_byte_costs_only_the_last_entry() {
        let folder = tempfile::tempdir().unwrap();
        let path = filled(folder.path());
        let whole = std::fs::read(&path).unwrap();
        let last_line = whole[..whole.len() - 1].iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
        for cut in last_line + 1..whole.len() {
            let contents = parse(&whole[..cut]);
            assert_eq!((contents.records.len(), contents.doubt.clone()), (3, Some(Doubt::Torn)), "cut at {cut}");
            std::fs::write(&path, &whole[..cut]).unwrap();
            let mut log = LogWriter::carry_on(folder.path(), &contents).unwrap();
            log.append(moment(9), &Entry::Recovered).unwrap();
            let after = read(&path).unwrap();
            assert_eq!((after.records.len(), after.doubt), (4, None));
            assert_eq!(after.records[3].entry, Read::Known(Entry::Recovered));
        }
    }

    #[test]
    fn a_bad_line_in_the_middle_ends_what_is_trusted_and_is_kept_aside() {
        let folder = tempfile::tempdir().unwrap();
        let path = filled(folder.path());
        let mut bytes = std::fs::read(&path).unwrap();
        let second = bytes.iter().position(|byte| *byte == b'\n').unwrap() + 60;
        bytes[second] ^= 0x20;
        std::fs::write(&path, &bytes).unwrap();
        let contents = read(&path).unwrap();
        assert_eq!(contents.records.len(), 1);
        assert!(matches!(contents.doubt, Some(Doubt::Bad { line: 2, .. })), "{:?}", contents.doubt);
        LogWriter::carry_on(folder.path(), &contents).unwrap();
        assert_eq!(std::fs::read(folder.path().join("log.jsonl.damaged")).unwrap(), bytes);
    }

    #[test]
    fn an_entry_that_was_left_out_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = filled(folder.path());
        let text = std::fs::read_to_string(&path).unwrap();
        let without: String =
            text.lines().enumerate().filter(|(at, _)| *at != 1).map(|(_, l)| format!("{l}\n")).collect();
        let contents = parse(without.as_bytes());
        assert_eq!(contents.records.len(), 1);
        assert!(matches!(contents.doubt, Some(Doubt::Bad { line: 2, .. })));
    }

    #[test]
    fn a_log_that_waits_holds_no_file_open() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = LogWriter::create(folder.path()).unwrap();
        log.append(moment(0), &Entry::Recovered).unwrap();
        let open =
            std::fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
        assert_eq!(open.filter(|path| path.starts_with(folder.path())).count(), 0);
        // Taken away, it is not made anew: what was written before would be missing from it.
        std::fs::remove_file(folder.path().join(LOG_NAME)).unwrap();
        assert!(matches!(log.append(moment(1), &Entry::Recovered), Err(JournalError::Append { .. })));
    }

    #[test]
    fn a_log_is_never_created_over_another() {
        let folder = tempfile::tempdir().unwrap();
        filled(folder.path());
        assert!(matches!(LogWriter::create(folder.path()), Err(JournalError::Create { .. })));
    }
}
