//! What a scrub must know of a table's definition to compare its rows with its indexes. SQLite reads definitions; this is what it makes
//! of them.

/// A table and its indexes, all of which can be compared by bytes alone: none is partial, none is over an expression or a column that is not
/// stored, and all collations are SQLite's own.
#[derive(Debug, Clone, PartialEq)]
pub struct TableContent {
    /// Its name, as the schema has it.
    pub name: String,
    /// What its records hold, in their order.
    pub columns: Vec<StoredColumn>,
    /// The key of a table without rowids: its first columns. Empty for a table of rowids.
    pub key: Vec<KeyPart>,
    /// Its indexes, but for the one that a table without rowids is itself.
    pub indexes: Vec<IndexContent>,
}

/// A column of a record.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredColumn {
    /// Which values SQLite's checks are content with: a sum of the constants of [`Allowed`].
    pub allowed: u8,
    /// What it is in rows that were written before the column was added.
    pub absent: Absent,
}

/// Kinds of values, as bits.
#[derive(Debug, Clone, Copy)]
pub struct Allowed;

impl Allowed {
    /// NULL.
    pub const NULL: u8 = 1;
    /// Integers.
    pub const INTEGER: u8 = 2;
    /// Floats.
    pub const REAL: u8 = 4;
    /// Texts.
    pub const TEXT: u8 = 8;
    /// Blobs.
    pub const BLOB: u8 = 16;
    /// Of texts only those that are no numbers: a column of numbers would have made numbers of the others.
    pub const NO_NUMBER: u8 = 32;
    /// Everything.
    pub const ANY: u8 = 31;
}

/// The value of a column that a row does not have.
#[derive(Debug, Clone, PartialEq)]
pub enum Absent {
    /// NULL.
    Null,
    /// A number.
    Integer(i64),
    /// A number.
    Real(f64),
    /// A text, in the database's encoding.
    Text(Vec<u8>),
    /// Bytes.
    Blob(Vec<u8>),
    /// Only SQLite can tell.
    Unknown,
}

/// An index.
#[derive(Debug, Clone, PartialEq)]
pub struct IndexContent {
    /// Its name, as the schema has it.
    pub name: String,
    /// Of how many columns at the beginning no two entries may have the same values, unless one is NULL; 0 for an index that is not unique.
    pub unique: usize,
    /// What its entries hold: its own columns, and then the rowid, or what of the table's key is not among them.
    pub columns: Vec<KeyPart>,
}

/// A column of an index, or of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyPart {
    /// Which column of the table's record it is; `None` for the rowid.
    pub column: Option<u16>,
    /// How texts are compared.
    pub collation: Collation,
    /// From the greatest to the least.
    pub descending: bool,
}

/// SQLite's own collations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Collation {
    /// By bytes.
    Binary,
    /// By bytes, A to Z as a to z. Of UTF-8 alone.
    NoCase,
    /// By bytes, without the spaces at the end. Of UTF-8 alone.
    RightTrim,
}
