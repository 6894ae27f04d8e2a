//! What a line of `integrity_check` blames: an index, a table, the file's structure, or only content.
//!
//! The words are those of `pragma.c` and `btree.c` of the SQLite that is compiled in; a line that is not known blames
//! the structure, the graver reading.

use std::collections::BTreeMap;

use rusqlite::ffi;

/// What one line blames.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Blame {
    /// One index: rebuilt from its table, at no loss.
    Index(String),
    /// A page that nothing refers to: wasted, not lost. Follows damage of an inner page of any tree.
    Leak,
    /// The row breaks a constraint (NOT NULL, CHECK, a STRICT type), or a virtual table does not agree with what it is
    /// over: the user's content, not corruption.
    Content,
    /// A table, the freelist, or the file.
    Structure,
}

/// The trees of a database: root page → name, for indexes and for tables.
#[derive(Debug, Default)]
pub(super) struct Trees {
    pub(super) indexes: BTreeMap<u32, String>,
    pub(super) tables: BTreeMap<u32, String>,
}

/// The code with which a page was refused that the check wanted: not a word about what the page holds.
///
/// Of an overflow or freelist page the line has no code; what its pager refuses there is a read that failed.
pub(super) fn refused_page(line: &str) -> Option<i32> {
    if let Some((_, code)) = line.split_once("unable to get the page. error code=") {
        let code = code.split(|byte: char| !byte.is_ascii_digit()).next()?.parse::<i32>().ok()?;
        return (!matches!(code & 0xff, ffi::SQLITE_CORRUPT | ffi::SQLITE_NOTADB)).then_some(code);
    }
    line.contains("failed to get page ").then_some(ffi::SQLITE_IOERR_READ)
}

/// Reads one line.
pub(super) fn blame(line: &str, trees: &Trees) -> Blame {
    if let Some(name) = named_index(line) {
        // A WITHOUT ROWID table's tree is called by its primary key's index, which no schema row has.
        let known = trees.indexes.values().any(|index| index == name);
        return if known { Blame::Index(name.to_owned()) } else { Blame::Structure };
    }
    if let Some(root) = tree_root(line) {
        // A page with two owners: rebuilding the index would free it under the other.
        let shared = line.contains("2nd reference to page");
        return match trees.indexes.get(&root) {
            Some(name) if !shared => Blame::Index(name.clone()),
            _ => Blame::Structure,
        };
    }
    if line.starts_with("Page ") && line.ends_with(": never used") {
        return Blame::Leak;
    }
    if is_content(line) { Blame::Content } else { Blame::Structure }
}

fn named_index(line: &str) -> Option<&str> {
    for words in ["wrong # of entries in index ", "non-unique entry in index "] {
        if let Some(name) = line.strip_prefix(words) {
            return Some(name);
        }
    }
    let row = line.strip_prefix("row ").or_else(|| line.strip_prefix("rowid not at end-of-record for row "));
    if let Some((number, rest)) = row.and_then(|rest| rest.split_once(' ')) {
        let words = ["missing from index ", "values differ from index ", "of index "];
        let name = words.into_iter().find_map(|words| rest.strip_prefix(words));
        return name.filter(|_| number.parse::<i64>().is_ok());
    }
    let (name, _) = line.strip_prefix("index ")?.rsplit_once(" stores an imprecise floating-point value for row ")?;
    Some(name)
}

fn tree_root(line: &str) -> Option<u32> {
    line.strip_prefix("Tree ")?.split([' ', ':']).next()?.parse().ok()
}

fn is_content(line: &str) -> bool {
    let typed = line.strip_prefix("non-").is_some_and(|rest| rest.contains(" value in "));
    typed
        || is_of_virtual_table(line)
        || ["NULL value in ", "NUMERIC value in ", "TEXT value in ", "CHECK constraint failed in "]
            .into_iter()
            .any(|words| line.starts_with(words))
}

/// What a virtual table's own check says of itself (`xIntegrity` of fts3, fts5 and rtree). Its pages are walked as the
/// ordinary tables that they are; this is about their meaning. An index over a table that was written without it, or a
/// tokenizer that only the program has, is no damage, and no reason to put a backup in the place of every other table.
fn is_of_virtual_table(line: &str) -> bool {
    ["malformed inverted index for FTS", "unable to validate the inverted index for FTS", "In RTree "]
        .into_iter()
        .any(|words| line.starts_with(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_that_could_not_be_read_is_no_damage_and_one_that_is_malformed_is() {
        for (line, code) in [
            ("Tree 2 page 11: unable to get the page. error code=8458", Some(8458)),
            ("Tree 2 page 11 cell 3: unable to get the page. error code=266", Some(266)),
            ("Tree 2 page 11: unable to get the page. error code=11", None),
            ("Tree 4 page 4 cell 7: failed to get page 12", Some(ffi::SQLITE_IOERR_READ)),
            ("Freelist: failed to get page 12", Some(ffi::SQLITE_IOERR_READ)),
            ("Tree 2 page 11: btreeInitPage() returns error code 11", None),
            ("wrong # of entries in index tx", None),
        ] {
            assert_eq!(refused_page(line), code, "{line}");
        }
    }

    #[test]
    fn every_line_blames_the_right_part() {
        let trees = Trees {
            indexes: BTreeMap::from([(5, "i of t".to_owned()), (6, "sqlite_autoindex_t_1".to_owned())]),
            tables: BTreeMap::from([(2, "t".to_owned())]),
        };
        let index = Blame::Index("i of t".to_owned());
        let table = [
            ("row 17 missing from index i of t", index.clone()),
            ("row -3 values differ from index i of t", index.clone()),
            ("rowid not at end-of-record for row 4 of index i of t", index.clone()),
            ("wrong # of entries in index i of t", index.clone()),
            ("non-unique entry in index sqlite_autoindex_t_1", Blame::Index("sqlite_autoindex_t_1".to_owned())),
            ("index i of t stores an imprecise floating-point value for row 9", index.clone()),
            ("wrong # of entries in index sqlite_autoindex_w_1", Blame::Structure),
            ("Tree 5 page 9: btreeInitPage() returns error code 11", index.clone()),
            ("Tree 5 page 9 cell 3: 2nd reference to page 12", Blame::Structure),
            ("Tree 2 page 9 cell 3: Rowid 1 out of order", Blame::Structure),
            ("Tree 99 page 9: free space corruption", Blame::Structure),
            ("Page 77: never used", Blame::Leak),
            ("Freelist: size is 3 but should be 4", Blame::Structure),
            ("NULL value in t.a", Blame::Content),
            ("CHECK constraint failed in t", Blame::Content),
            ("non-INT value in t.a", Blame::Content),
            ("TEXT value in t.a", Blame::Content),
            ("malformed inverted index for FTS4 table main.ft", Blame::Content),
            ("unable to validate the inverted index for FTS5 table main.ft: SQL logic error", Blame::Content),
            ("In RTree main.r:", Blame::Content),
            ("row not in PRIMARY KEY order for w", Blame::Structure),
            ("words that no SQLite has said yet", Blame::Structure),
            ("", Blame::Structure),
        ];
        for (line, expected) in table {
            assert_eq!(blame(line, &trees), expected, "{line}");
        }
    }
}
