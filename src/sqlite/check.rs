//! `quick_check` and `integrity_check`, with their answer understood.

use serde::{Deserialize, Serialize};

use super::messages::{Blame, Trees, blame, refused_page};
use super::probe::{quoted, text};
use super::{Database, SqliteFault};
use crate::model::FaultClass;

/// Of one table's check SQLite tells as many (`SQLITE_INTEGRITY_CHECK_ERROR_MAX`).
const LINES_OF_A_TABLE: u32 = 100;

/// What a check said.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IntegrityReport {
    /// The check ran to its end and found the file sound. Says nothing of an empty file, a damaged WAL or changed
    /// content: rule 10.
    pub ok: bool,
    /// What is wrong, in SQLite's words, at most as many as asked for.
    pub messages: Vec<String>,
    /// Rows that break a constraint: the user's content, not corruption; `ok` does not look at them.
    pub content: Vec<String>,
    /// Everything that is wrong lies in indexes: a rebuild loses nothing.
    pub only_indexes: bool,
    /// Everything that is wrong is that nothing refers to some pages: no row that can be reached is hurt. Space that a
    /// crash left behind, or what a lost write cut off; no check can tell which.
    #[serde(default)]
    pub only_waste: bool,
    /// The indexes that are named, sorted. Not all of them when `limit_reached`.
    pub damaged_indexes: Vec<String>,
    /// Those of them that have more entries than their table has rows: either stale entries, or rows that the table has
    /// lost and the index still remembers. A rebuild forgets them; look at the evidence before.
    pub surplus_indexes: Vec<String>,
    /// There may be more than was told.
    pub limit_reached: bool,
    /// What ended the check early. BUSY or a deadline is no verdict on the file.
    pub fault: Option<SqliteFault>,
}

impl IntegrityReport {
    /// True when the file was judged and found damaged; false as well where nothing could be told.
    pub fn is_corrupt(&self) -> bool {
        !self.messages.is_empty() || self.fault.as_ref().is_some_and(SqliteFault::is_corruption)
    }
}

impl Database {
    /// The structure of every tree, but no comparison of indexes with their tables.
    pub fn quick_check(&self, limit: u32) -> IntegrityReport {
        self.run_check("quick_check", limit)
    }

    /// Compiles a check without running it: an error names a function or a collation that this SQLite has not got. No table is read.
    ///
    /// # Errors
    /// SQLite's.
    pub fn can_check(&self, full: bool) -> Result<(), SqliteFault> {
        let pragma = if full { "integrity_check" } else { "quick_check" };
        let compiled = self.connection.prepare(&format!("PRAGMA main.{pragma}"));
        compiled.map(drop).map_err(|error| self.fault(&format!("preparing {pragma} of"), &error))
    }

    /// One table with its indexes, and its rules (NOT NULL, CHECK, types): the same as [`Database::integrity_check`], of this table alone.
    /// Pages of others are not read. Not for a database that was opened for reading alone: of such a one SQLite forgets its CHECKs
    /// (`sqlite3AddCheckConstraint` in `build.c`).
    pub fn check_table(&self, table: &str) -> IntegrityReport {
        self.run("integrity_check", &quoted(table), LINES_OF_A_TABLE)
    }

    /// The structure of every tree, and every index against its table. Ten times the cost of a quick one.
    pub fn integrity_check(&self, limit: u32) -> IntegrityReport {
        let mut report = self.run_check("integrity_check", limit);
        if report.only_indexes && report.limit_reached {
            // Thousands of missing entries may hide a line about a table: the structure is asked for alone.
            let quick = self.run_check("quick_check", limit);
            report.only_indexes = quick.ok || quick.only_indexes && !quick.limit_reached;
        }
        report
    }

    fn run_check(&self, pragma: &str, limit: u32) -> IntegrityReport {
        let limit = limit.max(1);
        self.run(pragma, &limit.to_string(), limit)
    }

    fn run(&self, pragma: &str, argument: &str, limit: u32) -> IntegrityReport {
        let mut lines = Vec::new();
        let fault = self.check_lines(pragma, argument, &mut lines).err();
        let fault = fault.map(|error| self.fault(&format!("running {pragma} on"), &error));
        if let Some((line, code)) = lines.iter().find_map(|line| Some((line, refused_page(line)?))) {
            // The disk's failure, whatever else seems wrong for want of that page: nothing is known of the bytes, and no repair
            // may follow from it.
            let fault = self.page_fault(pragma, line.clone(), code);
            return IntegrityReport { fault: Some(fault), ..IntegrityReport::default() };
        }
        let trees = self.trees().unwrap_or_default();
        let mut report = IntegrityReport { limit_reached: lines.len() >= limit as usize, ..Default::default() };
        let (mut elsewhere, mut tree_told, mut leaked) = (false, false, false);
        for line in lines {
            match blame(&line, &trees) {
                Blame::Content => {
                    report.content.push(line);
                    continue;
                }
                Blame::Index(name) => {
                    tree_told |= line.starts_with("Tree ");
                    report.damaged_indexes.push(name);
                }
                Blame::Structure => elsewhere = true,
                Blame::Leak => leaked = true,
            }
            report.messages.push(line);
        }
        report.damaged_indexes.sort();
        report.damaged_indexes.dedup();
        report.only_indexes =
            !elsewhere && !report.damaged_indexes.is_empty() && self.explained(fault.as_ref(), tree_told);
        if report.only_indexes {
            report.surplus_indexes =
                report.damaged_indexes.iter().filter(|name| self.has_surplus(name)).cloned().collect();
        }
        report.only_waste = leaked && !elsewhere && report.damaged_indexes.is_empty() && fault.is_none();
        report.ok = fault.is_none() && report.messages.is_empty();
        report.fault = fault;
        report
    }

    fn page_fault(&self, pragma: &str, message: String, code: i32) -> SqliteFault {
        let class = FaultClass::of(code, None);
        SqliteFault {
            code,
            ..SqliteFault::other(format!("running {pragma} on {}", self.path().display()), class, message)
        }
    }

    /// True when the error that ended a check early, if any, comes from an index's tree: every tree is walked, and told,
    /// before tables are compared with indexes; and the tables themselves can be read to their ends.
    fn explained(&self, fault: Option<&SqliteFault>, tree_told: bool) -> bool {
        fault.is_none_or(|fault| fault.is_corruption() && tree_told && self.row_counts().is_ok())
    }

    /// Not tellable counts as no: an unreadable index, or one over a part of the rows.
    fn has_surplus(&self, index: &str) -> bool {
        let count = |sql: String| self.connection.query_row(&sql, [], |row| row.get::<_, i64>(0)).ok();
        let sql = "SELECT tbl_name FROM sqlite_schema WHERE type='index' AND name=?1";
        let Ok(table) = self.connection.query_row(sql, [index], |row| row.get::<_, String>(0)) else {
            return false;
        };
        let rows = count(format!("SELECT count(*) FROM main.{} NOT INDEXED", quoted(&table)));
        let entries = count(format!("SELECT count(*) FROM main.{} INDEXED BY {}", quoted(&table), quoted(index)));
        matches!((rows, entries), (Some(rows), Some(entries)) if entries > rows)
    }

    fn check_lines(&self, pragma: &str, argument: &str, lines: &mut Vec<String>) -> rusqlite::Result<()> {
        let mut statement = self.connection.prepare(&format!("PRAGMA main.{pragma}({argument})"))?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            // The lines about trees come as one row, and so do those of an R-tree about itself.
            let answer = text(row.get_ref(0)?);
            if answer.starts_with("In RTree ") {
                lines.push(answer.replace('\n', "; "));
                continue;
            }
            let told = answer.lines().filter(|line| *line != "ok" && !line.starts_with("*** in database "));
            lines.extend(told.map(str::to_owned));
        }
        Ok(())
    }

    fn trees(&self) -> rusqlite::Result<Trees> {
        let mut trees = Trees::default();
        let sql = "SELECT type, name, rootpage FROM sqlite_schema WHERE type IN ('table', 'index')";
        let mut statement = self.connection.prepare(sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let (name, root) = (text(row.get_ref(1)?), row.get_ref(2)?.as_i64().unwrap_or(0));
            let of_kind = if text(row.get_ref(0)?) == "index" { &mut trees.indexes } else { &mut trees.tables };
            if let Ok(root) = u32::try_from(root) {
                of_kind.insert(root, name);
            }
        }
        // A root that a table claims too is not the index's to rebuild.
        let tables = &trees.tables;
        trees.indexes.retain(|root, _| !tables.contains_key(root));
        Ok(trees)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::super::{Access, FaultClass};

    #[test]
    fn a_sound_file_is_ok_by_both_checks() {
        let dir = tempfile::tempdir().unwrap();
        let db = open(&sample(dir.path()), Access::Probe);
        assert!(db.quick_check(100).ok && db.integrity_check(100).ok);
    }

    #[test]
    fn a_random_table_leaf_is_corrupt_and_no_affair_of_indexes() {
        let dir = tempfile::tempdir().unwrap();
        let path = sample(dir.path());
        damage(&path, (leaf_of(&path, "t") - 1) * 4096, &[0xa5; 4096]);
        let db = open(&path, Access::Probe);
        for report in [db.quick_check(100), db.integrity_check(100)] {
            assert!(!report.ok && report.is_corrupt() && !report.only_indexes, "{report:?}");
        }
    }

    #[test]
    fn a_random_index_leaf_is_an_affair_of_that_index_alone() {
        for index in ["t_b", "sqlite_autoindex_t_1"] {
            let dir = tempfile::tempdir().unwrap();
            let path = sample(dir.path());
            damage(&path, (leaf_of(&path, index) - 1) * 4096, &[0xa5; 4096]);
            let db = open(&path, Access::Probe);
            for report in [db.quick_check(100), db.integrity_check(100)] {
                assert!(report.only_indexes && report.is_corrupt(), "{report:?}");
                assert_eq!(report.damaged_indexes, [index]);
            }
        }
    }

    #[test]
    fn an_entry_that_differs_is_seen_by_the_full_check_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = sample(dir.path());
        mismatch(&path);
        let db = open(&path, Access::Probe);
        assert!(db.quick_check(100).ok);
        let report = db.integrity_check(100);
        assert!(report.only_indexes && report.fault.is_none(), "{report:?}");
        assert_eq!(report.damaged_indexes, ["t_b"]);
        let short = db.integrity_check(1);
        assert!(short.limit_reached && short.only_indexes, "{short:?}");
    }

    #[test]
    fn damage_of_a_table_is_not_taken_for_its_indexes() {
        let dir = tempfile::tempdir().unwrap();
        let path = sample(dir.path());
        // A misdirected write: the leaf is a sound page of another tree.
        let bytes = std::fs::read(&path).unwrap();
        let (t, w) = (leaf_of(&path, "t"), root_of(&path, "w"));
        damage(&path, (t - 1) * 4096, &bytes[((w - 1) * 4096) as usize..(w * 4096) as usize]);
        let report = open(&path, Access::Probe).integrity_check(100);
        assert!(report.is_corrupt() && !report.only_indexes, "{report:?}");
    }

    #[test]
    fn an_index_that_remembers_more_rows_than_its_table_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = sample(dir.path());
        let db = open(&path, Access::Repair);
        db.batch(
            "PRAGMA writable_schema=ON; CREATE TEMP TABLE kept AS SELECT * FROM sqlite_schema WHERE name='t_b';
             DELETE FROM sqlite_schema WHERE name='t_b'; PRAGMA writable_schema=RESET; DELETE FROM t WHERE a=7;
             PRAGMA writable_schema=ON; INSERT INTO main.sqlite_schema SELECT * FROM temp.kept; PRAGMA writable_schema=RESET",
        )
        .unwrap();
        drop(db);
        let report = open(&path, Access::Probe).integrity_check(100);
        assert!(report.only_indexes, "{report:?}");
        assert_eq!(report.surplus_indexes, ["t_b"]);
    }

    #[test]
    fn pages_that_nothing_refers_to_are_waste_and_an_index_out_of_step_with_its_content_is_the_programs() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w.db");
        let db = open(&path, Access::Create);
        db.batch(
            "CREATE TABLE doc(id INTEGER PRIMARY KEY, body); INSERT INTO doc(body) VALUES ('a b');
             CREATE VIRTUAL TABLE ft USING fts4(content='doc', body);",
        )
        .unwrap();
        let report = db.integrity_check(100);
        assert!(report.ok && report.content[0].contains("inverted index"), "{report:?}");
        db.batch(
            "CREATE TABLE u(a); INSERT INTO u VALUES (zeroblob(20000)); PRAGMA writable_schema=ON;
             DELETE FROM sqlite_schema WHERE name='u'; PRAGMA writable_schema=RESET",
        )
        .unwrap();
        let report = db.integrity_check(100);
        assert!(report.only_waste && !report.ok, "{report:?}");
    }

    #[test]
    fn a_broken_constraint_is_content_and_not_corruption() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.db");
        let db = open(&path, Access::Create);
        db.batch("CREATE TABLE t(a CHECK(a>0)); PRAGMA ignore_check_constraints=ON; INSERT INTO t VALUES (-1)")
            .unwrap();
        drop(db);
        let report = open(&path, Access::Probe).integrity_check(100);
        assert!(report.ok && !report.is_corrupt(), "{report:?}");
        assert_eq!(report.content, ["CHECK constraint failed in t"]);
        assert_eq!(open(&path, Access::Copy).check_table("t").content, report.content);
        assert!(open(&path, Access::Immutable).check_table("t").content.is_empty(), "what a CHECK needs is not read");
    }

    #[test]
    fn a_table_is_checked_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = sample(dir.path());
        mismatch(&path);
        damage(&path, (root_of(&path, "w") - 1) * 4096, &[0xa5; 4096]);
        let db = open(&path, Access::Immutable);
        let report = db.check_table("t");
        assert!(report.only_indexes && report.fault.is_none(), "{report:?}");
        assert!(db.check_table("w").is_corrupt() && db.check_table("no such").fault.is_some());
    }

    #[test]
    fn a_held_lock_is_no_verdict() {
        let dir = tempfile::tempdir().unwrap();
        let path = sample(dir.path());
        let holder = open(&path, Access::Repair);
        holder.batch("BEGIN EXCLUSIVE").unwrap();
        let report = open(&path, Access::Probe).integrity_check(100);
        assert!(!report.ok && !report.is_corrupt() && !report.only_indexes);
        assert_eq!(report.fault.unwrap().class, FaultClass::Busy);
    }

    #[test]
    fn a_deadline_is_no_verdict() {
        let dir = tempfile::tempdir().unwrap();
        let db = open(&sample(dir.path()), Access::Probe);
        db.deadline().cancel();
        let report = db.integrity_check(100);
        assert!(!report.ok && !report.is_corrupt(), "{report:?}");
        assert_eq!(report.fault.unwrap().class, FaultClass::Interrupted);
    }
}
