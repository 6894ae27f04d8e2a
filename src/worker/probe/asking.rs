//! What SQLite is asked, in which order, and for how long: in place or on a private copy.

use std::time::{Duration, Instant};

use super::content::{self, Content};
use super::scrub::{self, Soundness};
use super::{Look, copy, files, suspicion};
use crate::host;
use crate::job::{FileState, IntegrityFacts, IntegrityLevel};
use crate::sqlite::Access;

/// From this size on a check is preceded by reading the file in order (rule 12), in bytes.
const READ_AHEAD_FROM: u64 = 8 << 20;
/// From this size on a scrub is tried first, in bytes: below it SQLite's own check takes milliseconds.
const SCRUB_FROM: u64 = 8 << 20;
/// At most so much is read ahead, and for so long: more than fits into memory would push itself out again.
const READ_AHEAD_MAX: u64 = 2 << 30;
const READ_AHEAD_TIME: Duration = Duration::from_secs(20);

/// What nobody has written for so long, in nanoseconds, is mapped: the coarsest clock of a file system would show a further write then.
const AT_REST_NS: i128 = 2_000_000_000;

impl Look<'_> {
    /// Which checks are due before the database is opened, in order.
    fn due(&self, on_demand: bool) -> Vec<IntegrityLevel> {
        let size = self.files.main.state.size() + self.files.wal.state.size();
        let suspected = match (on_demand, self.facts.suspicion) {
            (true, _) if size <= self.probe.inline_max_bytes => Some(IntegrityLevel::Full),
            (true, _) => Some(IntegrityLevel::Quick),
            (false, level) => level,
        };
        // Mere suspicion does not hold up a sweep for a large file: the mode sees it in the facts, and has it checked.
        let suspected = suspected.filter(|_| on_demand || size <= self.probe.inline_max_bytes);
        let wanted = suspected.map_or(self.probe.integrity, |level| level.max(self.probe.integrity));
        match wanted {
            IntegrityLevel::Suspicion => Vec::new(),
            _ if self.is_in_passing() && size > self.probe.inline_max_bytes => Vec::new(),
            IntegrityLevel::Quick => vec![IntegrityLevel::Quick],
            IntegrityLevel::Full if suspected.is_some() && size > suspicion::FULL_AT_ONCE => {
                vec![IntegrityLevel::Quick, IntegrityLevel::Full]
            }
            IntegrityLevel::Full => vec![IntegrityLevel::Full],
        }
    }

    pub(super) fn in_place(&mut self, access: Access) {
        let path = self.files.main.path.clone();
        let busy = Duration::from_millis(self.probe.site.busy_ms);
        let content = Content { path: &path, access, busy, query: self.query_time() };
        self.ask(&content);
    }

    /// Nobody asked for a check or a diagnosis: this look shares its child, and its time, with others.
    fn is_in_passing(&self) -> bool {
        self.probe.integrity == IntegrityLevel::Suspicion && !self.probe.diagnose
    }

    pub(super) fn on_copy(&mut self, why: String) {
        let size = self.files.main.state.size() + self.files.wal.state.size();
        if self.is_in_passing() && size > self.probe.inline_max_bytes {
            self.facts.not_opened = Some(format!("{why}; a private copy of it waits for a look of its own"));
            self.facts.copy_waits = true;
            return;
        }
        let made = copy::of_all(&self.probe.site);
        match &made {
            Ok(copy) => {
                let path = copy.main();
                self.facts.on_copy = Some(why);
                let access = Access::Copy;
                self.ask(&Content { path: &path, access, busy: Duration::ZERO, query: self.query_time() });
            }
            Err(error) => self.facts.not_opened = Some(format!("{why}; and no private copy could be made: {error}")),
        }
        self.copy = Some(made);
    }

    /// The canary's time: not how long SQLite waits for a lock, which may be a blink, but how long writers may be blocked.
    fn query_time(&self) -> Duration {
        Duration::from_millis(self.probe.site.busy_ms.max(self.probe.site.block_max_ms))
    }

    /// Opens, checks and queries `content`.
    fn ask(&mut self, content: &Content<'_>) {
        let due = self.due(false);
        if !due.is_empty() && self.facts.on_copy.is_none() {
            let started = Instant::now();
            self.read_ahead();
            self.time("integrity", started);
        }
        let started = Instant::now();
        // A look at the content reads the schema whatever its cookie says: text that damage has changed may still parse.
        let remembered = self.probe.healthy_before().filter(|_| due.is_empty()).map(|before| before.schema_cookie);
        self.facts.open = Some(content.open(remembered));
        if content::is_malformed_schema(self.facts.open.as_ref()) {
            self.facts.schema_version = content.schema_version();
        }
        self.time("open", started);
        let opened = self.facts.open.as_ref().is_some_and(Result::is_ok);

        self.check(content, &due);
        if let (Some(canary), true) = (&self.probe.canary, opened) {
            let started = Instant::now();
            self.facts.query = Some(content.query(canary));
            self.time("query", started);
        }
        let damaged =
            content::speaks_of_damage(self.facts.open.as_ref()) || content::speaks_of_damage(self.facts.query.as_ref());
        if damaged && self.facts.integrity.is_none() {
            let due = self.due(true);
            self.check(content, &due);
        }
    }

    /// Runs the checks until one finds something.
    fn check(&mut self, content: &Content<'_>, due: &[IntegrityLevel]) {
        let started = Instant::now();
        for &level in due {
            let found = content::with_records(self.check_once(content, level), &self.probe.site, content.path);
            let go_on = found.ok;
            self.facts.integrity = Some(found);
            if !go_on {
                break;
            }
        }
        if !due.is_empty() {
            self.time("integrity", started);
        }
    }

    /// In WAL mode a check blocks nobody. In rollback mode it keeps writers out for its whole length (rule 11), so in place
    /// it is ended after `block_max`, and goes on on a copy that was taken under SHARED.
    fn check_once(&self, content: &Content<'_>, level: IntegrityLevel) -> IntegrityFacts {
        let blocks = self.facts.on_copy.is_none() && !self.wal_mode();
        let limit = blocks.then(|| Duration::from_millis(self.probe.site.block_max_ms));
        let scrubbed = self.scrub(content, level);
        if scrubbed == Soundness::Sound {
            return content::sound(level);
        }
        // What takes a scrub too long takes SQLite longer.
        let mut found = match scrubbed {
            Soundness::TakesTooLong => content::interrupted(level),
            _ => content.check(level, limit),
        };
        if !(blocks && content::was_interrupted(&found)) {
            return found;
        }
        match copy::under_shared_lock(&self.probe.site) {
            Ok(copy) => {
                let path = copy.main();
                let access = Access::Copy;
                Content { path: &path, access, busy: Duration::ZERO, query: Duration::ZERO }.check(level, None)
            }
            Err(error) => {
                found.unfinished =
                    Some(format!("it would have kept writers out too long, and no copy could be taken: {error}"));
                found
            }
        }
    }

    /// A scrub says several times as fast that there is nothing to find. Whatever it finds is SQLite's to confirm, in its words: a
    /// heal goes by these. Its connections are closed meanwhile (rule 7).
    fn scrub(&self, content: &Content<'_>, level: IntegrityLevel) -> Soundness {
        let is_large = self.files.main.state.size() + self.files.wal.state.size() >= SCRUB_FROM;
        // A copy has its journal and its WAL beside it, as they were, and only SQLite can roll back.
        if !is_large || self.facts.on_copy.is_some() || content.access == Access::Immutable {
            return Soundness::NotTold;
        }
        // Only SQLite itself knows which functions and collations it has not got.
        if !self.facts.open.as_ref().is_some_and(Result::is_ok) || !content.can_check(level) {
            return Soundness::NotTold;
        }
        scrub::soundness(&self.probe.site, level == IntegrityLevel::Full)
    }

    /// Where a check of the database in its place has passed, and a map is asked for. Whatever keeps it from being made leaves an earlier
    /// one, and says nothing of the database. All that looked at it is closed by now (rule 7).
    pub(super) fn map_pages(&mut self) {
        let passed = self.facts.integrity.as_ref().is_some_and(|found| found.ok) && self.facts.on_copy.is_none();
        let Some(folder) = self.probe.backups.as_ref().filter(|_| passed && self.probe.map_pages) else { return };
        // The next commit makes it worthless: whoever writes on is not held up for it.
        let files = [&self.facts.main, &self.facts.wal_file].into_iter().filter_map(FileState::file);
        let written = files.map(|file| i128::from(file.mtime_ns)).max().unwrap_or_default();
        if self.facts.looked_at.as_nanosecond() < written + AT_REST_NS {
            return;
        }
        let started = Instant::now();
        self.facts.mapped = scrub::map_pages(&self.probe.site, folder).ok();
        self.time("integrity", started);
    }

    fn read_ahead(&self) {
        let size = self.files.main.state.size();
        if size < READ_AHEAD_FROM {
            return;
        }
        if let Ok(main) = files::open_raw(&self.files.main) {
            // A bad sector is for the check itself to find, and to name.
            let _ = host::read_ahead(&main, READ_AHEAD_MAX, Instant::now() + READ_AHEAD_TIME);
        }
    }
}
