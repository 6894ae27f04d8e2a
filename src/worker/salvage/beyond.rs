//! Whether a wreck can have anything at all that a backup of it has not: told by its pages, before anybody takes rows apart.

use std::path::Path;

use super::failed;
use super::view::{Files, View};
use crate::format::BtreePage;
use crate::format::salvage::Pages as _;
use crate::job::JobFailure;

/// Bytes of a header that differ between a database and its copy, and mean nothing for its rows: versions 18 and 19, the change counter,
/// the schema cookie, and the two fields that follow the counter (fileformat2.html, section 1.3).
const ITS_OWN: [std::ops::Range<usize>; 4] = [18..20, 24..28, 40..44, 92..100];

/// What a wreck has beside its backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::worker) struct Beyond {
    /// Every page that can be read is the backup's, and where one is noise or gone, the backup has a page of a tree: no row of the wreck
    /// can be newer than the backup's.
    pub nothing: bool,
    /// Pages that are noise or gone.
    pub unreadable: u32,
    /// The schema cookie in the wreck's header, where that can be believed.
    pub schema_cookie: Option<u32>,
}

/// Compares a wreck, or an incident's evidence, with a backup of it, page by page. It ends at the first page that is newer, so that it
/// only reads both to their ends where that saves a salvage.
///
/// # Errors
/// As a salvage's, where one of the two cannot be read.
pub(in crate::worker) fn beyond(source: &Path, backup: &Path) -> Result<Beyond, JobFailure> {
    let (own_files, their_files) = (Files::open(source)?, Files::open(backup)?);
    let view = |files| View::of(files).map_err(|error| failed(error.to_string()));
    let (own, theirs) = (view(&own_files)?, view(&their_files)?);
    let (Some(own), Some(theirs)) = (own, theirs) else {
        return Ok(Beyond { nothing: false, unreadable: 0, schema_cookie: None });
    };
    let schema_cookie = own.header.map(|header| header.schema_cookie);
    let alike = own.geometry == theirs.geometry && own.encoding == theirs.encoding && own.count() <= theirs.count();
    let mut unreadable = 0;
    let mut nothing = alike;
    // A page that is missing at the end has nothing newer either.
    for number in (1..=own.count()).take_while(|_| alike) {
        let Some(their_page) = theirs.page(number) else {
            nothing = false;
            break;
        };
        let own_page = own.page(number);
        if own_page.as_ref().is_some_and(|page| is_same(number, page, &their_page)) {
            continue;
        }
        // What looks like a page of a tree may be a newer one. What does not could be one of a chain, if the backup has none of a tree
        // there: pages of chains have no mark of their own.
        let is_tree = |page: &Vec<u8>| BtreePage::lenient(page, number, &own.geometry).is_some();
        if own_page.as_ref().is_some_and(is_tree) || !is_tree(&their_page) {
            nothing = false;
            break;
        }
        unreadable += 1;
    }
    own_files.are_still_so()?;
    their_files.are_still_so()?;
    Ok(Beyond { nothing, unreadable, schema_cookie })
}

fn is_same(number: u32, own: &[u8], theirs: &[u8]) -> bool {
    if own == theirs || number > 1 {
        return own == theirs;
    }
    let without = |page: &[u8]| {
        let mut page = page.to_vec();
        ITS_OWN.iter().filter_map(|range| page.get_mut(range.clone()).map(|bytes| bytes.fill(0))).count();
        page
    };
    without(own) == without(theirs)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use rusqlite::Connection;

    use super::*;

    struct Two {
        dir: tempfile::TempDir,
    }

    impl Two {
        /// A table of which some rows have chains, and its backup, made by SQLite's own interface.
        fn new() -> Two {
            let two = Two { dir: tempfile::tempdir().unwrap() };
            let db = Connection::open(two.path("app.db")).unwrap();
            db.execute_batch(
                "CREATE TABLE t(id INTEGER PRIMARY KEY, body);
                 WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<900)
                 INSERT INTO t SELECT i, CASE i % 90 WHEN 0 THEN randomblob(9000) ELSE hex(randomblob(50)) END FROM n",
            )
            .unwrap();
            db.backup("main", two.path("backup.db"), None::<fn(rusqlite::backup::Progress)>).unwrap();
            two
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        fn run(&self, sql: &str) {
            Connection::open(self.path("app.db")).unwrap().execute_batch(sql).unwrap();
        }

        fn pages(&self, kind: &str) -> Vec<usize> {
            let db = Connection::open(self.path("backup.db")).unwrap();
            let mut query = db.prepare("SELECT pageno FROM dbstat WHERE name='t' AND pagetype=?1").unwrap();
            query.query_map([kind], |row| row.get::<_, i64>(0)).unwrap().map(|page| page.unwrap() as usize).collect()
        }

        fn noise(&self, page: usize) {
            let mut bytes = std::fs::read(self.path("app.db")).unwrap();
            bytes[(page - 1) * 4096..page * 4096].fill(0xa5);
            std::fs::write(self.path("app.db"), bytes).unwrap();
        }

        fn beyond(&self) -> Beyond {
            beyond(&self.path("app.db"), &self.path("backup.db")).unwrap()
        }
    }

    #[test]
    fn a_wreck_of_just_what_the_backup_has_has_nothing_beyond_it() {
        let two = Two::new();
        assert_eq!((two.beyond().nothing, two.beyond().unreadable), (true, 0));
        for page in two.pages("leaf").into_iter().take(3) {
            two.noise(page);
        }
        let found = two.beyond();
        assert_eq!((found.nothing, found.unreadable), (true, 3));
        assert_eq!(found.schema_cookie, Some(1));
    }

    #[test]
    fn a_row_that_is_newer_is_never_missed() {
        for change in [
            "INSERT INTO t VALUES (5000, 'new')",
            "UPDATE t SET body = 'other' WHERE id = 7",
            "DELETE FROM t WHERE id = 7",
            // In place: not a byte of any page of the tree is another.
            "UPDATE t SET body = (SELECT substr(body, 1, 8000) || randomblob(1000) FROM t WHERE id = 90) WHERE id = 90",
            "CREATE TABLE later(a)",
        ] {
            let two = Two::new();
            two.run(change);
            two.noise(two.pages("leaf")[1]);
            assert!(!two.beyond().nothing, "{change}");
        }
    }

    #[test]
    fn a_page_of_a_chain_could_be_newer_and_is_looked_at_by_a_salvage() {
        let two = Two::new();
        two.noise(two.pages("overflow")[0]);
        assert!(!two.beyond().nothing);
    }

    #[test]
    fn what_the_wal_has_is_newer() {
        let two = Two::new();
        let program = Connection::open(two.path("app.db")).unwrap();
        program
            .execute_batch("PRAGMA journal_mode=wal; PRAGMA wal_autocheckpoint=0; INSERT INTO t VALUES (5000, 'new')")
            .unwrap();
        // As a program that was killed leaves it.
        std::fs::create_dir(two.path("killed")).unwrap();
        for name in ["app.db", "app.db-wal"] {
            std::fs::copy(two.path(name), two.path("killed").join(name)).unwrap();
        }
        let found = beyond(&two.path("killed/app.db"), &two.path("backup.db")).unwrap();
        assert!(!found.nothing);
    }
}
