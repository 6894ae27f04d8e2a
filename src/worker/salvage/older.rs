//! A backup whose rows fill what a wreck lacks. Of its pages no more is kept than filling asks of them: what is known of the wreck's own
//! stands beside it.

use std::ops::RangeInclusive;

use super::plan::Plan;
use super::view::{Files, View};
use super::{failed, survey_of};
use crate::format::salvage::{Leaf, Pages as _, Survey, Whole, assign};
use crate::job::JobFailure;
use crate::sqlite::salvage::Layout;

/// A page with rows of a table.
#[derive(Debug, Clone, Copy)]
pub(super) struct RowPage {
    pub number: u32,
    /// How far the highest rowid is from the lowest; `u32::MAX` for that far or further.
    span: u32,
    /// The lowest rowid.
    pub low: i64,
}

impl RowPage {
    fn of(number: u32, survey: &Survey) -> RowPage {
        let note = survey.note(number);
        let span = u32::try_from(note.high.saturating_sub(note.low)).unwrap_or(if note.high < note.low {
            0
        } else {
            u32::MAX
        });
        RowPage { number, span, low: note.low }
    }

    /// The rowids that it may have, and perhaps more.
    pub(super) fn rowids(&self) -> RangeInclusive<i64> {
        let high = if self.span == u32::MAX { i64::MAX } else { self.low.saturating_add(self.span.into()) };
        self.low..=high
    }
}

/// The backup.
pub(super) struct Backup<'a> {
    pub view: View<'a>,
    pub plan: Plan,
    /// Of each table of the plan.
    tables: Vec<Vec<RowPage>>,
    /// By page, from 1: it is a page of a tree.
    is_tree: Vec<bool>,
}

impl<'a> Backup<'a> {
    /// Reads all of it.
    pub(super) fn of(files: &'a Files) -> Result<Backup<'a>, JobFailure> {
        let view = View::of(files).map_err(|error| failed(error.to_string()))?;
        let view = view.ok_or_else(|| failed("nothing in the backup is a page of a database"))?;
        let survey = survey_of(&view);
        let plan = Plan::of(&view, &survey, None, (None, None)).map_err(failed)?;
        let assignment = assign(&view, &survey, &plan.trees(&survey), &plan.schema_pages, None);
        let of_tables = assignment.pieces.iter().take(plan.tables.len());
        let tables =
            of_tables.map(|pieces| pieces.iter().map(|piece| RowPage::of(piece.page, &survey)).collect()).collect();
        let is_tree = survey.notes.iter().map(|note| note.kind.is_some()).collect();
        Ok(Backup { view, plan, tables, is_tree })
    }

    /// The pages of the table that `is_it`; none where it has no such table.
    pub(super) fn pages_of(&self, name: &str, is_it: impl Fn(&Layout) -> bool) -> &[RowPage] {
        let table =
            self.plan.tables.iter().position(|table| {
                table.row.name.eq_ignore_ascii_case(name) && table.layout.as_ref().is_some_and(&is_it)
            });
        table.and_then(|table| self.tables.get(table)).map(Vec::as_slice).unwrap_or_default()
    }

    /// Whether a page is one of a tree, or of none that the backup has.
    pub(super) fn may_be_of_a_tree(&self, page: u32) -> bool {
        (page as usize).checked_sub(1).and_then(|at| self.is_tree.get(at)).copied().unwrap_or(true)
    }

    /// The rows of a page, as far as they are there.
    ///
    /// # Errors
    /// What `visit` says.
    pub(super) fn each_row<E>(&self, page: u32, visit: &mut dyn FnMut(&Whole) -> Result<(), E>) -> Result<(), E> {
        let Some(bytes) = self.view.page(page) else { return Ok(()) };
        let leaf = Leaf::read(&bytes, page, &self.view.geometry, None);
        let is_overflow = |page: u32| page > self.view.count() || !self.may_be_of_a_tree(page);
        leaf.rows(&self.view, &is_overflow).try_for_each(|row| visit(&row))
    }
}
