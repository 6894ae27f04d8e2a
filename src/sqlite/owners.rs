//! Whose a page is.

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
}

#[cfg(test)]
mod tests {
    use super::super::Access;
    use super::super::testing::*;

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
