//! One line on the terminal that is rewritten while somebody waits. Nothing of it is left behind, and nothing is written where standard
//! error is no terminal.

use std::io::{IsTerminal as _, Write as _};
use std::sync::{Arc, Mutex, PoisonError};

use crate::job::PartDone;

/// Characters of the bar.
const WIDTH: u64 = 30;
/// To the line's beginning, and all of it gone.
const CLEAR: &str = "\r\x1b[K";

/// The line; gone when this is dropped.
#[derive(Debug)]
pub(super) struct ProgressLine {
    /// It may be written to.
    is_open: Arc<Mutex<bool>>,
}

/// Hears how far a job is.
pub(super) type Heard = Box<dyn Fn(PartDone) + Send + Sync>;

impl ProgressLine {
    /// And who is to hear.
    pub(super) fn new() -> (ProgressLine, Heard) {
        let is_open = Arc::new(Mutex::new(std::io::stderr().is_terminal()));
        let line = ProgressLine { is_open: Arc::clone(&is_open) };
        let heard = move |part: PartDone| {
            let is_open = is_open.lock().unwrap_or_else(PoisonError::into_inner);
            if *is_open {
                // A terminal that is gone takes no answer either.
                let mut stderr = std::io::stderr().lock();
                let _ = write!(stderr, "{CLEAR}{}", words(&part)).and_then(|()| stderr.flush());
            }
        };
        (line, Box::new(heard))
    }
}

impl Drop for ProgressLine {
    fn drop(&mut self) {
        let mut is_open = self.is_open.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut *is_open, false) {
            let mut stderr = std::io::stderr().lock();
            let _ = write!(stderr, "{CLEAR}").and_then(|()| stderr.flush());
        }
    }
}

fn words(part: &PartDone) -> String {
    let done = part.done.min(part.of);
    let of = part.of.max(1);
    let filled = usize::try_from(u128::from(done) * u128::from(WIDTH) / u128::from(of)).unwrap_or(0);
    let bar = format!("{:<width$}", "#".repeat(filled), width = WIDTH as usize);
    format!("[{bar}] {:>3} % {}", u128::from(done) * 100 / u128::from(of), part.part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_is_as_full_as_the_part_is_done() {
        let at = |done, of| words(&PartDone { part: "reading".to_owned(), done, of });
        assert_eq!(at(0, 10), format!("[{}]   0 % reading", " ".repeat(30)));
        assert_eq!(at(5, 10), format!("[{}{}]  50 % reading", "#".repeat(15), " ".repeat(15)));
        assert_eq!(at(10, 10), format!("[{}] 100 % reading", "#".repeat(30)));
        assert_eq!(at(11, 10), at(10, 10), "a page that was read twice");
        assert_eq!(at(0, 0), at(0, 10));
        assert_eq!(at(u64::MAX, u64::MAX), at(10, 10));
    }
}
