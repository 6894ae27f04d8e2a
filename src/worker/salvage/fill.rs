//! Fills the new database: tables, their rows, what belongs nowhere, then indexes, virtual tables, views and triggers.

use std::collections::BTreeSet;

use super::moving::MovedTrees;
use super::plan::Plan;
use super::progress;
use super::rebuild::Rebuild;
use super::view::View;
use crate::format::salvage::{Assignment, Leaf, Pages as _, Piece, Survey, values_of};
use crate::format::{SchemaKind, Value};
use crate::job::{Salvaged, SalvagedTable};
use crate::sqlite::SqliteFault;
use crate::sqlite::salvage::{Inserted, Inserter, Layout, LayoutColumn, NewDatabase};

/// SQLite's limit is 2,000 columns; five are ours.
const LOST_COLUMNS_MAX: usize = 1990;

/// What fills one database.
struct Filling<'a> {
    view: &'a View<'a>,
    survey: &'a Survey,
}

/// Creates the tables.
pub(super) fn define_tables(new: &mut NewDatabase, plan: &Plan, report: &mut Salvaged) {
    for table in plan.tables.iter().filter(|table| table.layout.is_some()) {
        if let Err(fault) = new.define(SchemaKind::Table, &table.sql) {
            report.damage.push(format!("table {} could not be created: {fault}", table.row.name));
        }
    }
    report.damage.extend_from_slice(&plan.damage);
}

/// Fills all that pages were not `moved` for: row by row. Tells what is left of what was moved: of a table that cannot be what it is, all
/// rows are put in by SQLite.
pub(super) fn fill(
    new: &mut NewDatabase,
    rebuild: &Rebuild<'_>,
    mut moved: MovedTrees,
    deleted: &[u32],
    report: &mut Salvaged,
) -> Result<MovedTrees, SqliteFault> {
    let Rebuild { view, survey, plan, assignment, .. } = *rebuild;
    for (moved_table, table) in moved.tables.iter_mut().zip(&plan.tables) {
        // A key twice: SQLite has to look at each row.
        if let (Some(_), Some(layout)) = (&moved_table, &table.layout)
            && new.fill_indexes(layout, &moved.indexes).is_err()
        {
            new.drop_indexes_but(&BTreeSet::new(), Some(&layout.name))?;
            let its = plan.index_trees().filter(|(_, row)| row.table.eq_ignore_ascii_case(&layout.name));
            its.for_each(|(_, row)| {
                moved.indexes.remove(&row.name.to_lowercase());
            });
            new.empty(layout)?;
            *moved_table = None;
        }
    }
    let lost_layout = lost_layout(plan, survey, assignment, deleted);
    let is_needed = lost_rows_may_come(plan, assignment, deleted);
    if is_needed {
        new.define(SchemaKind::Table, &lost_sql(&lost_layout))?;
    }
    let filling = Filling { view, survey };
    new.begin_rows()?;
    let mut lost = is_needed.then(|| new.inserter(&lost_layout));
    let (mut lost_count, mut deleted_count) = (0, 0);
    let to_read = |(at, pieces): (usize, &Vec<Piece>)| match moved.tables.get(at) {
        Some(Some(moved)) => moved.left.len(),
        _ => pieces.len(),
    };
    let to_read: usize = assignment.pieces.iter().take(plan.tables.len()).enumerate().map(to_read).sum();
    progress::part(progress::ROWS, to_read as u64);
    for (at, table) in plan.tables.iter().enumerate() {
        let (Some(layout), Some(pieces)) = (&table.layout, assignment.pieces.get(at)) else { continue };
        let mut told = SalvagedTable {
            table: table.row.name.clone(),
            made_up: table.made_up,
            incomplete: assignment.lacking.get(at).copied().unwrap_or(false),
            ..SalvagedTable::default()
        };
        let mut inserter = new.inserter(layout);
        let mut pieces = pieces.as_slice();
        if let Some(Some(moved)) = moved.tables.get(at) {
            (told.kept, told.adopted) = (moved.rows, moved.adopted);
            pieces = &moved.left;
        }
        for piece in pieces {
            progress::step(progress::ROWS, 1);
            filling.piece(piece, table.row.root, layout, &mut inserter, lost.as_mut(), &mut told, &mut lost_count)?;
        }
        let lacked = told.incomplete;
        rebuild.table(at, &mut inserter, &mut told)?;
        if lacked && !told.incomplete {
            let name = &told.table;
            report.damage.push(format!("table {name}: a part of its tree is missing; its indexes tell of every row"));
        }
        report.tables.push(told);
    }
    if let Some(lost) = lost.as_mut() {
        for (top, page) in &assignment.lost {
            filling.lost_page(*top, *page, lost, &mut lost_count)?;
        }
        for page in deleted {
            // No tree is at page 0: what was deleted is told by it.
            filling.lost_page(0, *page, lost, &mut deleted_count)?;
        }
    }
    drop(lost);
    new.end_rows()?;
    (report.lost_and_found, report.deleted) = (lost_count, deleted_count);
    if is_needed && lost_count + deleted_count == 0 {
        new.batch("DROP TABLE lost_and_found")?;
    }
    finish(new, &filling, rebuild, &moved, report)?;
    Ok(moved)
}

impl Filling<'_> {
    fn is_overflow(&self, page: u32) -> bool {
        self.survey.note(page).kind.is_none()
    }

    #[allow(clippy::too_many_arguments)]
    fn piece(
        &self,
        piece: &Piece,
        root: u32,
        layout: &Layout,
        inserter: &mut Inserter<'_>,
        mut lost: Option<&mut Inserter<'_>>,
        told: &mut SalvagedTable,
        lost_count: &mut u64,
    ) -> Result<(), SqliteFault> {
        let Some(bytes) = self.view.page(piece.page) else { return Ok(()) };
        // Rows that are found without pointers look like the page's others, or as the definition says.
        let columns = match self.survey.note(piece.page).columns {
            0 => u16::try_from(layout.columns.len()).ok(),
            columns => Some(columns),
        };
        let leaf = Leaf::read(&bytes, piece.page, &self.survey.geometry, columns);
        told.lost += u64::from(leaf.lost);
        let is_overflow = |page| self.is_overflow(page);
        for row in leaf.rows(self.view, &is_overflow) {
            let values = values_of(&row.payload);
            if !row.is_complete() {
                // A row with a part of a value would pass for a whole one.
                told.uncertain += 1;
                if let Some(lost) = lost.as_deref_mut() {
                    *lost_count += self.lost_row(root, piece.page, row.rowid, &values, lost)?;
                }
                continue;
            }
            match inserter.insert(row.rowid, &values)? {
                Inserted::Kept => {
                    told.kept += 1;
                    told.uncertain += u64::from(row.uncertain);
                    told.adopted += u64::from(piece.orphan);
                    told.carved += u64::from(row.carved);
                }
                Inserted::Repeated => told.repeated += 1,
                Inserted::Refused => {
                    told.refused += 1;
                    if let Some(lost) = lost.as_deref_mut() {
                        *lost_count += self.lost_row(root, piece.page, row.rowid, &values, lost)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn lost_page(&self, top: u32, page: u32, lost: &mut Inserter<'_>, count: &mut u64) -> Result<(), SqliteFault> {
        let Some(bytes) = self.view.page(page) else { return Ok(()) };
        let leaf = Leaf::read(&bytes, page, &self.survey.geometry, None);
        let is_overflow = |page| self.is_overflow(page);
        for row in leaf.rows(self.view, &is_overflow) {
            *count += self.lost_row(top, page, row.rowid, &values_of(&row.payload), lost)?;
        }
        Ok(())
    }

    fn lost_row(
        &self,
        root: u32,
        page: u32,
        rowid: Option<i64>,
        values: &[Value<'_>],
        lost: &mut Inserter<'_>,
    ) -> Result<u64, SqliteFault> {
        let count = i64::try_from(values.len()).unwrap_or(0);
        let mut row = vec![Value::Integer(root.into()), Value::Integer(page.into()), Value::Integer(count)];
        row.push(rowid.map_or(Value::Null, Value::Integer));
        row.extend(values.iter().take(LOST_COLUMNS_MAX));
        Ok(u64::from(lost.insert(None, &row)? == Inserted::Kept))
    }
}

/// A refused row goes there as well, so that it is made before rows come; and dropped when none did.
fn lost_rows_may_come(plan: &Plan, assignment: &Assignment, deleted: &[u32]) -> bool {
    !plan.tables.iter().any(|table| table.row.name.eq_ignore_ascii_case("lost_and_found"))
        && (!plan.tables.is_empty() || !assignment.lost.is_empty() || !deleted.is_empty())
}

fn lost_layout(plan: &Plan, survey: &Survey, assignment: &Assignment, deleted: &[u32]) -> Layout {
    let pages = assignment.lost.iter().map(|(_, page)| page).chain(deleted);
    let of_pages = pages.map(|page| usize::from(survey.note(*page).columns)).max();
    let of_tables =
        plan.tables.iter().filter_map(|table| table.layout.as_ref()).map(|layout| layout.columns.len()).max();
    // A page's later rows may be wider than its first: SQLite takes as many as there are.
    let most = of_pages.max(of_tables).unwrap_or(0).clamp(1, LOST_COLUMNS_MAX);
    let named = ["rootpgno", "pgno", "nfield", "id"].map(str::to_owned);
    let columns = named.into_iter().chain((0..most).map(|at| format!("c{at}")));
    let column = |name: String| LayoutColumn {
        name,
        declared: String::new(),
        not_null: false,
        is_rowid: false,
        generated: false,
    };
    Layout {
        name: "lost_and_found".to_owned(),
        has_rowids: true,
        columns: columns.map(column).collect(),
        key: 0,
        rowid_name: None,
        has_rules: false,
    }
}

fn lost_sql(layout: &Layout) -> String {
    let names: Vec<&str> = layout.columns.iter().map(|column| column.name.as_str()).collect();
    format!("CREATE TABLE lost_and_found({})", names.join(", "))
}

fn finish(
    new: &mut NewDatabase,
    filling: &Filling<'_>,
    Rebuild { plan, assignment, .. }: &Rebuild<'_>,
    moved: &MovedTrees,
    report: &mut Salvaged,
) -> Result<(), SqliteFault> {
    let view = filling.view;
    for (row, pieces) in plan.internal.iter().zip(assignment.pieces.iter().skip(plan.tables.len())) {
        if !row.name.eq_ignore_ascii_case("sqlite_sequence") {
            continue;
        }
        for piece in pieces.iter().filter(|piece| !piece.orphan) {
            let Some(bytes) = view.page(piece.page) else { continue };
            let leaf = Leaf::read(&bytes, piece.page, &view.geometry, None);
            for row in leaf.rows(view, &|_| true) {
                if let [Value::Text(name), Value::Integer(given), ..] = values_of(&row.payload).as_slice() {
                    new.raise_sequence(&view.encoding.decode(name), *given)?;
                }
            }
        }
    }
    let is_there = |row: &&crate::format::SchemaRow| moved.indexes.contains(&row.name.to_lowercase());
    let indexes = plan.last.iter().filter(|row| row.kind == SchemaKind::Index && !is_there(row));
    progress::part(progress::INDEXES, indexes.clone().count() as u64);
    for row in indexes {
        progress::step(progress::INDEXES, 0);
        define(new, row, report);
        progress::step(progress::INDEXES, 1);
    }
    if !plan.virtuals.is_empty()
        && let Err(said) = new.check()
    {
        report.damage.push(format!("the check of the new database says: {said}"));
    }
    for row in &plan.virtuals {
        let Some(sql) = &row.sql else { continue };
        // Shadow tables are called after their table.
        let shadow = format!("{}_", row.name.to_lowercase());
        let is_hurt = |table: &&SalvagedTable| table.lost + table.uncertain + table.adopted > 0 || table.incomplete;
        let mut shadows = report.tables.iter().filter(|table| table.table.to_lowercase().starts_with(&shadow));
        let hurt = shadows.any(|table| is_hurt(&table));
        match new.define_virtual(&row.name, sql, hurt) {
            Ok(None) => {}
            Ok(Some(remark)) => report.damage.push(format!("virtual table {}: {remark}", row.name)),
            Err(why) => {
                let what = "was left out, its own tables are there";
                report.damage.push(format!("virtual table {} {what}: {why}", row.name));
            }
        }
    }
    for row in plan.last.iter().filter(|row| row.kind != SchemaKind::Index) {
        define(new, row, report);
    }
    if let Some(header) = view.header {
        new.batch(&format!(
            "PRAGMA user_version={}; PRAGMA application_id={}",
            header.user_version, header.application_id
        ))?;
    }
    told(filling.survey, plan, assignment, report);
    Ok(())
}

fn define(new: &mut NewDatabase, row: &crate::format::SchemaRow, report: &mut Salvaged) {
    let done = row.sql.as_deref().map(|sql| new.define(row.kind, sql));
    if let Some(Err(fault)) = done {
        report.damage.push(format!("{} {} was left out: {fault}", format!("{:?}", row.kind).to_lowercase(), row.name));
    }
}

/// What the tables' figures mean, in words.
fn told(survey: &Survey, plan: &Plan, assignment: &Assignment, report: &mut Salvaged) {
    let mut damage = Vec::new();
    for table in &report.tables {
        let mut parts = Vec::new();
        let mut say = |count: u64, what: &str| {
            if count > 0 {
                parts.push(format!("{count} {what}"));
            }
        };
        say(table.lost, "rows lost");
        say(table.rebuilt, "rows put together from indexes");
        say(table.from_backup, "rows taken from the backup");
        say(table.unproven, "of them named by no index: changed or deleted since, perhaps");
        say(table.uncertain, "rows uncertain");
        say(table.adopted, "rows on pages that nothing led to");
        say(table.carved, "rows found without a pointer to them");
        say(table.refused, "rows refused by a constraint");
        say(table.repeated, "rows repeated");
        if table.incomplete {
            parts.push("a part of its tree is missing".to_owned());
        }
        if !parts.is_empty() {
            damage.push(format!("table {}: {}", table.table, parts.join(", ")));
        }
    }
    if report.lost_and_found > 0 {
        damage.push(format!("{} rows of which no table can be told are in lost_and_found", report.lost_and_found));
    }
    if survey.told_by_cells > 0 {
        damage.push(format!("{} pages were read by their cells, their headers are damaged", survey.told_by_cells));
    }
    if survey.freelist_hurt || assignment.free_in_use > 0 {
        damage.push("the freelist is damaged".to_owned());
    }
    let others = assignment.lacking.iter().skip(plan.tables.len()).filter(|lacks| **lacks).count();
    if others > 0 {
        damage.push(format!("{others} indexes are damaged; they were made anew from their tables"));
    }
    if assignment.repeated > 0 {
        damage.push(format!("{} pages only repeat others", assignment.repeated));
    }
    report.damage.append(&mut damage);
}
