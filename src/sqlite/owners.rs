//! Whose a page is.

use std::collections::BTreeSet;

use super::probe::text;
use super::{Database, SqliteFault};

impl Database {
    /// The tables that these pages belong to, those of their indexes included, by name. Costs a walk through all trees.
    ///
    /// # Errors
    /// SQLite's.
    pub fn owners_of(&self, pages: &[u32]) -> Result<Vec<String>, SqliteFault> {
        let list = pages.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        let sql = format!(
            "SELECT DISTINCT coalesce(s.tbl_name, d.name) AS owner FROM dbstat d LEFT JOIN sqlite_schema s ON s.name=d.name
             WHERE d.pageno IN ({list}) ORDER BY owner"
        );
        let read = || -> rusqlite::Result<Vec<String>> {
            let mut statement = self.connection.prepare(&sql)?;
            let mut rows = statement.query([])?;
            let mut names = Vec::new();
            while let Some(row) = rows.next()? {
                names.push(text(row.get_ref(0)?));
            }
            Ok(names)
        };
        read().map_err(|error| self.fault("asking whose pages are in", &error))
    }

    /// The pages that trees and their overflow chains use, page 1 first, and the largest root page among them. Costs a walk through all
    /// trees.
    ///
    /// # Errors
    /// SQLite's, also where a tree cannot be walked to its end.
    pub fn pages_in_use(&self) -> Result<(BTreeSet<u32>, u32), SqliteFault> {
        let read = || -> rusqlite::Result<(BTreeSet<u32>, u32)> {
            let mut statement = self.connection.prepare("SELECT pageno FROM dbstat")?;
            let pages = statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<BTreeSet<u32>>>()?;
            let largest = "SELECT coalesce(max(rootpage), 1) FROM sqlite_schema";
            Ok((pages, self.connection.query_row(largest, [], |row| row.get(0))?))
        };
        read().map_err(|error| self.fault("walking the trees of", &error))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Access;
    use super::super::testing::*;

    #[test]
    fn every_page_of_a_fresh_database_is_in_use() {
        let dir = tempfile::tempdir().unwrap();
        let path = sample(dir.path());
        let db = open(&path, Access::Immutable);
        let pages = (std::fs::metadata(&path).unwrap().len() / db.page_size().unwrap() as u64) as u32;
        let (used, largest) = db.pages_in_use().unwrap();
        assert_eq!(used, (1..=pages).collect());
        assert!(used.contains(&largest) && largest >= root_of(&path, "w") as u32);
    }

    #[test]
    fn a_page_is_its_tables_also_where_it_is_an_indexs() {
        let dir = tempfile::tempdir().unwrap();
        let path = sample(dir.path());
        let page = |name: &str| root_of(&path, name) as u32;
        let db = open(&path, Access::Immutable);
        assert_eq!(db.owners_of(&[page("t_b")]).unwrap(), ["t"]);
        assert_eq!(db.owners_of(&[page("t"), page("w"), 1]).unwrap(), ["sqlite_schema", "t", "w"]);
        assert_eq!(db.owners_of(&[999_999]).unwrap(), Vec::<String>::new());
    }
}
