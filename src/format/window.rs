//! A window that slides over a file through the caller's positioned read: large reads, bounded memory.

/// Bytes per read: large enough that a scan is not bound by system calls, small beside a worker's memory limit.
const WINDOW: usize = 256 * 1024;

pub(super) struct Window<R> {
    read: R,
    file_len: u64,
    start: u64,
    bytes: Vec<u8>,
}

impl<E, R: FnMut(u64, &mut [u8]) -> Result<(), E>> Window<R> {
    pub(super) fn new(file_len: u64, read: R) -> Window<R> {
        Window { read, file_len, start: 0, bytes: Vec::new() }
    }

    /// `len` bytes at `at`; `None` when the file is too short for them. `len` is a page at most.
    pub(super) fn get(&mut self, at: u64, len: usize) -> Result<Option<&[u8]>, E> {
        let Some(end) = at.checked_add(len as u64).filter(|end| *end <= self.file_len) else {
            return Ok(None);
        };
        if at < self.start || end > self.start + self.bytes.len() as u64 {
            let want = (self.file_len - at).min(WINDOW.max(len) as u64) as usize;
            self.bytes.resize(want, 0);
            self.start = at;
            if let Err(error) = (self.read)(at, &mut self.bytes) {
                self.bytes.clear();
                return Err(error);
            }
        }
        let from = (at - self.start) as usize;
        Ok(self.bytes.get(from..from + len))
    }

    /// The longest run from `at` that is at hand or comes with one read; empty at the end of the file.
    pub(super) fn run(&mut self, at: u64) -> Result<&[u8], E> {
        let left = self.file_len.saturating_sub(at).min(WINDOW as u64) as usize;
        Ok(self.get(at, left)?.unwrap_or_default())
    }
}
