//! An R-Tree whose own tables are damaged is built anew from the entries that its leaves still have.
//!
//! Facts from the head of `ext/rtree/rtree.c`: a node is a blob in `<name>_node`: depth (2 bytes, in the root alone), number of cells (2),
//! then cells of a 64-bit id and two 32-bit coordinates per dimension, all big-endian. `<name>_parent` has the parent of every node but
//! the root, `<name>_rowid` the leaf of every entry and the auxiliary columns.

use std::collections::{BTreeMap, BTreeSet};

use super::NewDatabase;
use super::quoted;
use crate::sqlite::{SqliteFault, Value};

/// Bytes of nodes that are kept in memory.
const ROOM: usize = 64 << 20;

/// What can still be read of one.
struct Entries {
    nodes: Vec<(i64, Vec<u8>)>,
    inner: BTreeSet<i64>,
    /// Of each entry its node and its auxiliary columns.
    placed: BTreeMap<i64, (i64, Vec<Value>)>,
    aux: usize,
}

impl NewDatabase {
    /// Builds it anew, in one transaction: how many entries it has now. The virtual table must not be in the schema.
    pub(super) fn rebuild_rtree(&self, name: &str, sql: &str) -> Result<u64, SqliteFault> {
        let entries = self.entries(name)?;
        self.batch("SAVEPOINT rebuilt")?;
        let built = self.build_rtree(name, sql, &entries);
        match &built {
            Ok(_) => self.batch("RELEASE rebuilt")?,
            Err(_) => self.batch("ROLLBACK TO rebuilt; RELEASE rebuilt")?,
        }
        built
    }

    fn entries(&self, name: &str) -> Result<Entries, SqliteFault> {
        let part = |suffix: &str| quoted(&format!("{name}_{suffix}"));
        let mut entries = Entries { nodes: Vec::new(), inner: BTreeSet::new(), placed: BTreeMap::new(), aux: 0 };
        let mut size = 0;
        for row in self.rows(&format!("SELECT nodeno, data FROM main.{} ORDER BY nodeno", part("node")))? {
            let [Value::Integer(number), Value::Blob(data)] = row.as_slice() else { continue };
            size += data.len();
            if size > ROOM {
                break;
            }
            entries.nodes.push((*number, data.clone()));
        }
        for row in self.rows(&format!("SELECT parentnode FROM main.{}", part("parent")))? {
            entries.inner.extend(row.first().and_then(Value::as_i64));
        }
        for row in self.rows(&format!("SELECT * FROM main.{}", part("rowid")))? {
            if let [Value::Integer(id), Value::Integer(node), aux @ ..] = row.as_slice() {
                entries.aux = aux.len();
                entries.placed.insert(*id, (*node, aux.to_vec()));
            }
        }
        Ok(entries)
    }

    fn build_rtree(&self, name: &str, sql: &str, entries: &Entries) -> Result<u64, SqliteFault> {
        for suffix in ["node", "parent", "rowid"] {
            self.batch(&format!("DROP TABLE main.{}", quoted(&format!("{name}_{suffix}"))))?;
        }
        // One statement alone: the text is the wreck's.
        self.run(sql, &[])?;
        let columns = self.rows(&format!("SELECT name FROM pragma_table_info('{}')", name.replace('\'', "''")))?.len();
        let coordinates = columns.saturating_sub(1 + entries.aux);
        let integers = sql.to_ascii_lowercase().contains("rtree_i32");
        let marks: Vec<String> = (1..=columns).map(|at| format!("?{at}")).collect();
        let insert = format!("INSERT OR IGNORE INTO main.{} VALUES({})", quoted(name), marks.join(","));
        let mut count = 0;
        for (node, data) in &entries.nodes {
            for (id, corners) in cells(data, coordinates) {
                // An inner node's cells are nodes: only what is placed in this very node could be an entry all the same.
                let placed = entries.placed.get(&id).filter(|(at, _)| at == node);
                if placed.is_none() && (entries.inner.contains(node) || entries.placed.contains_key(&id)) {
                    continue;
                }
                let mut row = vec![Value::Integer(id)];
                row.extend(corners.iter().map(|corner| match integers {
                    true => Value::Integer(i64::from(i32::from_be_bytes(*corner))),
                    false => Value::Real(f64::from(f32::from_be_bytes(*corner))),
                }));
                row.extend(placed.map_or_else(|| vec![Value::Null; entries.aux], |(_, aux)| aux.clone()));
                count += u64::try_from(self.run(&insert, &row)?).unwrap_or(0);
            }
        }
        Ok(count)
    }
}

/// The cells of a node: an id, and so many coordinates.
fn cells(node: &[u8], coordinates: usize) -> impl Iterator<Item = (i64, Vec<[u8; 4]>)> {
    let count = node.get(2..4).and_then(<[u8]>::first_chunk).map_or(0, |count| u16::from_be_bytes(*count));
    let cells = node.get(4..).unwrap_or_default().chunks_exact(8 + 4 * coordinates);
    cells.take(usize::from(count)).filter_map(|cell| {
        let (id, corners) = cell.split_first_chunk::<8>()?;
        Some((i64::from_be_bytes(*id), corners.as_chunks::<4>().0.to_vec()))
    })
}
