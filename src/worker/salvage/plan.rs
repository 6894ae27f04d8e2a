//! What the new database shall have: tables with their layouts, and what is created last.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::view::View;
use crate::format::salvage::{
    Affinity, Assignment, ColumnShape, Heard, Leaf, Pages as _, Piece, Recall, Survey, TableShape, Tree, TreeUse,
    values_of,
};
use crate::format::{SchemaKind, SchemaRow, Value};
use crate::sqlite::salvage::{Layout, LayoutColumn, Layouts};

/// A table with rows of its own.
#[derive(Debug)]
pub(super) struct Table {
    pub row: SchemaRow,
    /// `None` until it is made up.
    pub layout: Option<Layout>,
    /// Its definition; ours where its own is none.
    pub sql: String,
    pub made_up: bool,
    /// What SQLite's own tables say of one whose definition is gone.
    heard: Option<Heard>,
}

/// What the new database shall have.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub tables: Vec<Table>,
    /// Indexes' roots, so that their pages are nobody's rows.
    pub(super) indexes: Vec<SchemaRow>,
    pub virtuals: Vec<SchemaRow>,
    /// Indexes, views, triggers, in this order.
    pub last: Vec<SchemaRow>,
    pub schema_pages: BTreeSet<u32>,
    /// `sqlite_sequence` and what ANALYZE left.
    pub internal: Vec<SchemaRow>,
    pub damage: Vec<String>,
    /// The schema as it was found.
    pub found: Vec<SchemaRow>,
}

impl Plan {
    /// By the source's own schema, and where that says nothing, by the given one, or a backup's.
    pub(super) fn of(
        view: &View<'_>,
        survey: &Survey,
        script: Option<&str>,
        (backup, recall): (Option<&Plan>, Option<&Recall>),
    ) -> Result<Plan, String> {
        let mut plan = Plan::default();
        let found = survey.schema(view);
        let found_little = found.hurt || found.rows.is_empty();
        if found_little {
            plan.damage.push("the schema could not be read in full".to_owned());
        }
        plan.schema_pages = found.pages;
        plan.found = found.rows.clone();
        let mut given = script.map(Layouts::objects_of).transpose()?.unwrap_or_default();
        // What a source that can be read does not define was dropped since the backup.
        if let Some(backup) = backup.filter(|_| found.hurt || found.rows.is_empty()) {
            let children = if found.rows.is_empty() { survey.children(view) } else { BTreeSet::new() };
            // A root of then is one of now if nothing leads to it; whether its rows are the table's is looked at like that of any root.
            let root = |root: u32| if found.rows.is_empty() && !children.contains(&root) { root } else { 0 };
            add_definitions(&mut given, script.is_some(), &backup.found, root);
        }
        let mut given: BTreeMap<(SchemaKind, String), SchemaRow> =
            given.into_iter().map(|row| ((row.kind, row.name.to_lowercase()), row)).collect();
        let mut layouts = Layouts::new()?;
        for row in found.rows {
            let other = given.remove(&(row.kind, row.name.to_lowercase()));
            plan.take(row, other, &mut layouts);
        }
        for (_, row) in given {
            plan.take(row, None, &mut layouts);
        }
        plan.last.sort_by_key(|row| row.kind);
        plan.name_by_indexes();
        if found_little {
            if let Some(recall) = recall {
                plan.name_by_memory(recall, view, survey);
            }
            plan.name_by_hearsay(survey.heard(view));
        }
        Ok(plan)
    }

    /// Tables whose own rows are gone, and of which an index tells.
    fn name_by_indexes(&mut self) {
        let all = self.tables.iter().map(|table| &table.row).chain(&self.virtuals).chain(&self.internal);
        let known: BTreeSet<String> = all.map(|row| row.name.to_lowercase()).collect();
        let (mut named, mut named_tables) = (BTreeSet::new(), Vec::new());
        for index in self.indexes.iter().filter(|index| index.root != 0) {
            let lower = index.table.to_lowercase();
            if known.contains(&lower) || lower.is_empty() || !named.insert(lower) {
                continue;
            }
            named_tables.push(index.table.clone());
        }
        named_tables.into_iter().for_each(|name| self.add_named(name, 0));
    }

    /// A table of which there is a name and no definition.
    pub(super) fn add_named(&mut self, name: String, root: u32) {
        self.damage.push(format!("the definition of table {name} is gone"));
        let row = SchemaRow { kind: SchemaKind::Table, table: name.clone(), name, root, sql: None };
        self.tables.push(Table { row, layout: None, sql: String::new(), made_up: true, heard: None });
    }

    /// Tables that SQLite's own tables speak of; one that no tree turns out to be is left out.
    fn name_by_hearsay(&mut self, heard: BTreeMap<String, Heard>) {
        let all = self.tables.iter().map(|table| &table.row).chain(&self.virtuals).chain(&self.internal);
        let known: BTreeSet<String> = all.map(|row| row.name.to_lowercase()).collect();
        for (name, heard) in heard {
            let at = self.tables.iter().position(|table| table.row.name.eq_ignore_ascii_case(&name));
            match at.and_then(|at| self.tables.get_mut(at)).filter(|table| table.made_up && table.row.root == 0) {
                Some(table) => table.heard = Some(heard),
                None if known.contains(&name.to_lowercase()) => {}
                None => {
                    let (kind, table) = (SchemaKind::Table, name.clone());
                    let row = SchemaRow { kind, name, table, root: 0, sql: None };
                    let (layout, sql, made_up) = (None, String::new(), true);
                    self.tables.push(Table { row, layout, sql, made_up, heard: Some(heard) });
                }
            }
        }
    }

    fn take(&mut self, row: SchemaRow, given: Option<SchemaRow>, layouts: &mut Layouts) {
        let internal = row.name.to_ascii_lowercase().starts_with("sqlite_");
        match row.kind {
            SchemaKind::Table if internal => self.internal.push(row),
            SchemaKind::Table if row.sql.as_deref().is_some_and(is_virtual) => self.virtuals.push(row),
            SchemaKind::Table => {
                let texts = [row.sql.clone(), given.and_then(|given| given.sql)];
                let tried =
                    texts.into_iter().flatten().find_map(|sql| Some((layouts.table(&row.name, &sql).ok()?, sql)));
                if tried.is_none() {
                    self.damage.push(format!("the definition of table {} cannot be read", row.name));
                }
                let (layout, sql) = tried.map_or((None, String::new()), |(layout, sql)| (Some(layout), sql));
                self.tables.push(Table { row, made_up: layout.is_none(), layout, sql, heard: None });
            }
            SchemaKind::Index => {
                if row.sql.is_some() && !internal {
                    self.last.push(row.clone());
                }
                self.indexes.push(row);
            }
            SchemaKind::View | SchemaKind::Trigger => self.last.push(row),
        }
    }

    /// Tables with rules that no look at their pages tells: CHECK, types of a STRICT table, generated columns, the order of keys.
    pub(super) fn ruled(&self) -> Vec<&str> {
        let layouts = self.tables.iter().filter_map(|table| table.layout.as_ref());
        layouts.filter(|layout| layout.has_rules).map(|layout| layout.name.as_str()).collect()
    }

    /// Indexes with trees of their own, each with the tree's place among all.
    pub(super) fn index_trees(&self) -> impl Iterator<Item = (usize, &SchemaRow)> {
        // The index of a WITHOUT ROWID table's key is the table itself.
        let roots: BTreeSet<u32> = self.tables.iter().map(|table| table.row.root).collect();
        let of_its_own = move |row: &&SchemaRow| row.root != 0 && !roots.contains(&row.root);
        (self.tables.len() + self.internal.len()..).zip(self.indexes.iter().filter(of_its_own))
    }

    /// The trees, tables first, in their order; then SQLite's own tables, then indexes.
    pub(super) fn trees(&self, survey: &Survey) -> Vec<Tree> {
        let indexes: Vec<&SchemaRow> = self.index_trees().map(|(_, row)| row).collect();
        let table = |table: &Table| {
            let kind = survey.note(table.row.root).kind;
            let shape = match &table.layout {
                Some(layout) => shape(layout),
                None => {
                    let has_rowids = kind.is_none_or(|kind| kind.is_table());
                    TableShape { has_rowids, columns: Vec::new(), known: false }
                }
            };
            let is_told = table.layout.is_none() && table.row.root == 0;
            let told_by = indexes.iter().enumerate().filter(|(_, row)| is_told && row.table == table.row.name);
            let told_by = told_by.map(|(at, _)| self.tables.len() + self.internal.len() + at).collect();
            Tree { root: table.row.root, use_: TreeUse::Table, shape, told_by, heard: table.heard }
        };
        let internal = |row: &SchemaRow| {
            let shape = TableShape { has_rowids: true, columns: Vec::new(), known: false };
            Tree { root: row.root, use_: TreeUse::Table, shape, told_by: Vec::new(), heard: None }
        };
        let index = |row: &SchemaRow| {
            let shape = TableShape { has_rowids: false, columns: Vec::new(), known: false };
            Tree { root: row.root, use_: TreeUse::Index, shape, told_by: Vec::new(), heard: None }
        };
        let tables = self.tables.iter().map(table);
        tables.chain(self.internal.iter().map(internal)).chain(indexes.iter().copied().map(index)).collect()
    }

    /// Gives tables whose definition cannot be read one by what their rows hold.
    pub(super) fn make_up(&mut self, view: &View<'_>, survey: &Survey, assignment: &Assignment) {
        for (table, pieces) in self.tables.iter_mut().zip(&assignment.pieces) {
            if table.layout.is_some() {
                continue;
            }
            // A table of which nothing is known but a name is not worth making up.
            if pieces.is_empty() && table.row.sql.is_none() {
                continue;
            }
            let gone = format!("the definition of table {} is gone", table.row.name);
            if table.heard.is_some() && !self.damage.contains(&gone) {
                self.damage.push(gone);
            }
            let layout = made_up(&table.row.name, view, survey, pieces);
            table.sql = definition(&layout);
            table.layout = Some(layout);
        }
    }
}

/// A backup's definitions, with the roots that they may have. Where there is a `script` it knows them all but for SQLite's own.
fn add_definitions(given: &mut Vec<SchemaRow>, has_script: bool, backup: &[SchemaRow], root: impl Fn(u32) -> u32) {
    let place: BTreeMap<(SchemaKind, String), usize> =
        given.iter().enumerate().map(|(at, row)| ((row.kind, row.name.to_lowercase()), at)).collect();
    let is_known = |kind, name: &str| place.contains_key(&(kind, name.to_lowercase()));
    for row in backup {
        let root = root(row.root);
        let known = place.get(&(row.kind, row.name.to_lowercase()));
        if let Some(known) = known.and_then(|at| given.get_mut(*at)) {
            known.root = if known.root == 0 { root } else { known.root };
            continue;
        }
        let is_internal = row.name.to_ascii_lowercase().starts_with("sqlite_");
        let of_known = row.kind == SchemaKind::Table || is_known(SchemaKind::Table, &row.table);
        if !has_script || is_internal && of_known {
            given.push(SchemaRow { root, ..row.clone() });
        }
    }
}

fn is_virtual(sql: &str) -> bool {
    let mut words = sql.split_ascii_whitespace().map(str::to_ascii_lowercase);
    words.next().as_deref() == Some("create") && words.next().as_deref() == Some("virtual")
}

pub(super) fn shape(layout: &Layout) -> TableShape {
    let column = |column: &LayoutColumn| ColumnShape {
        affinity: Affinity::of(&column.declared),
        not_null: column.not_null,
        is_rowid: column.is_rowid,
    };
    TableShape { has_rowids: layout.has_rowids, columns: layout.columns.iter().map(column).collect(), known: true }
}

/// What a column holds.
#[derive(Debug, Default, Clone, Copy)]
struct Held {
    nulls: u64,
    integers: u64,
    reals: u64,
    texts: u64,
    blobs: u64,
}

impl Held {
    /// A type that changes none of these values.
    fn declared(self) -> &'static str {
        match (self.integers > 0, self.reals > 0, self.texts > 0, self.blobs > 0) {
            (true, false, false, false) => "INTEGER",
            // SQLite stores a whole number of a REAL column as an integer.
            (_, true, false, false) => "REAL",
            (false, false, true, false) => "TEXT",
            _ => "BLOB",
        }
    }
}

fn made_up(name: &str, view: &View<'_>, survey: &Survey, pieces: &[Piece]) -> Layout {
    let mut held: Vec<Held> = Vec::new();
    let mut rows = 0;
    let mut has_rowids = true;
    let is_overflow = |page: u32| survey.note(page).kind.is_none();
    for piece in pieces {
        let Some(bytes) = view.page(piece.page) else { continue };
        let leaf = Leaf::read(&bytes, piece.page, &survey.geometry, None);
        has_rowids = leaf.kind().is_table();
        for row in leaf.rows(view, &is_overflow) {
            rows += 1;
            for (at, value) in values_of(&row.payload).into_iter().enumerate() {
                if held.len() <= at {
                    held.resize(at + 1, Held::default());
                }
                let Some(held) = held.get_mut(at) else { continue };
                match value {
                    Value::Null => held.nulls += 1,
                    Value::Integer(_) => held.integers += 1,
                    Value::Real(_) => held.reals += 1,
                    Value::Text(_) => held.texts += 1,
                    Value::Blob(_) => held.blobs += 1,
                }
            }
        }
    }
    let column = |(at, held): (usize, &Held)| LayoutColumn {
        name: format!("c{at}"),
        declared: held.declared().to_owned(),
        not_null: false,
        // The first column of a table is NULL in every row where it is the rowid, and hardly ever else.
        is_rowid: at == 0 && has_rowids && rows > 1 && held.nulls == rows,
        generated: false,
    };
    let mut columns: Vec<LayoutColumn> = held.iter().enumerate().map(column).collect();
    if columns.is_empty() {
        columns.push(LayoutColumn {
            name: "c0".to_owned(),
            declared: "BLOB".to_owned(),
            not_null: false,
            is_rowid: false,
            generated: false,
        });
    }
    let rowid_name = (has_rowids && !columns.iter().any(|column| column.is_rowid)).then_some("rowid");
    Layout { name: name.to_owned(), has_rowids, columns, key: 0, rowid_name, has_rules: true }
}

fn definition(layout: &Layout) -> String {
    let mut sql = format!("CREATE TABLE \"{}\"(", layout.name.replace('"', "\"\""));
    for (at, column) in layout.columns.iter().enumerate() {
        let comma = if at == 0 { "" } else { ", " };
        let declared = if column.is_rowid { "INTEGER PRIMARY KEY" } else { &column.declared };
        // Writing to a String cannot fail.
        let _ = write!(sql, "{comma}{} {declared}", column.name);
    }
    sql + ")"
}
