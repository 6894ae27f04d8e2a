//! Rows out of a wreck, from bytes alone: what the file's measures are when its header lies, which pages belong to which table when
//! nothing leads to them, and which cells can be read on a page that is hurt.
//!
//! The way of one salvage:
//! 1. [`measure()`]: page size, reserved bytes and encoding, by the pages that come out whole under them.
//! 2. [`Survey::of`]: one pass over all pages: what each is, and which rowids a table's leaf has; then the freelist.
//! 3. [`Survey::schema`]: rows of `sqlite_schema`, of its tree and of leaves that nothing leads to.
//! 4. [`assign`]: each tree claims its pages from the root down, as far as it holds; what is left over goes to the table that its
//!    rows look like and that lacks such a part.
//! 5. [`Transplant`]: pages that are sound to the byte go to the new database as they are.
//! 6. [`Leaf::read`]: the rows of any other page, each cell by itself.
//!
//! Whoever has the file gives its pages through [`Pages`], the newest committed version of each. Memory is bounded by a fixed number of
//! bytes per page; rows are not kept.

mod adopt;
mod claim;
mod copies;
mod heard;
mod leaf;
mod likeness;
mod measure;
mod named;
mod recall;
mod roots;
mod stray;
mod survey;
mod transplant;

pub use adopt::{Assignment, Piece, assign};
pub use claim::{CellPlace, Gap, KeyGap, Tree, TreeUse};
pub use heard::Heard;
pub use leaf::{Leaf, RowCell, Whole, values_of};
pub use likeness::{Affinity, ColumnShape, Profile, TableShape};
pub use measure::{Measures, encoding_of, has_pointer_maps, header_of, measure};
pub use recall::{Recall, Recalled, RecalledTable};
pub use stray::FoundSchema;
pub use survey::{Note, Survey};
pub use transplant::{Moved, Put, Transplant};

/// The pages of a database: of each the newest committed version.
pub trait Pages: Sync {
    /// How many there are; page numbers go from 1 to it.
    fn count(&self) -> u32;

    /// How many the database had: those behind [`Pages::count`] were cut off.
    fn counted(&self) -> u32 {
        self.count()
    }

    /// All bytes of a page, zeros behind the file's end; `None` where it cannot be read.
    fn page(&self, number: u32) -> Option<Vec<u8>>;

    /// Fills `into` with whole pages from `first` on; false where one of them cannot be read: then each is asked for by itself.
    fn run(&self, first: u32, page_size: u32, into: &mut [u8]) -> bool {
        (first..).zip(into.chunks_exact_mut(page_size as usize)).all(|(number, into)| {
            let page = self.page(number).filter(|page| page.len() == into.len());
            page.is_some_and(|page| {
                into.copy_from_slice(&page);
                true
            })
        })
    }
}

#[cfg(test)]
mod tests;
