//! Whether rows are a table's: by what its columns may hold, and by what the rows that are surely its own look like.

use super::super::record::{Record, Value};

/// What a column's declared type makes of a value (<https://sqlite.org/datatype3.html#determination_of_column_affinity>).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Affinity {
    /// INTEGER.
    Integer,
    /// REAL.
    Real,
    /// NUMERIC.
    Numeric,
    /// TEXT.
    Text,
    /// BLOB, or none.
    Blob,
}

/// A column of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ColumnShape {
    /// Its affinity.
    pub affinity: Affinity,
    /// NULL is refused.
    pub not_null: bool,
    /// The rowid by another name: NULL in every record.
    pub is_rowid: bool,
}

/// What the records of a table or an index look like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableShape {
    /// Its tree is one of rowids.
    pub has_rowids: bool,
    /// The columns of a record, in its order.
    pub columns: Vec<ColumnShape>,
    /// The columns are known; else anything fits.
    pub known: bool,
}

impl Affinity {
    /// Of a declared type.
    pub fn of(declared: &str) -> Affinity {
        let declared = declared.to_ascii_uppercase();
        let has = |part: &str| declared.contains(part);
        if has("INT") {
            Affinity::Integer
        } else if has("CHAR") || has("CLOB") || has("TEXT") {
            Affinity::Text
        } else if has("BLOB") || declared.is_empty() {
            Affinity::Blob
        } else if has("REAL") || has("FLOA") || has("DOUB") {
            Affinity::Real
        } else {
            Affinity::Numeric
        }
    }

    /// How often a class of value stands in such a column, before anything is known: NULL, integer, real, text, blob.
    fn expected(self) -> [f64; CLASSES] {
        match self {
            Affinity::Integer => [0.20, 0.76, 0.01, 0.02, 0.01],
            Affinity::Real => [0.20, 0.30, 0.48, 0.01, 0.01],
            Affinity::Numeric => [0.20, 0.40, 0.15, 0.24, 0.01],
            Affinity::Text => [0.20, 0.0, 0.0, 0.77, 0.03],
            Affinity::Blob => [0.20, 0.20, 0.10, 0.25, 0.25],
        }
    }
}

const CLASSES: usize = 5;
/// What prior knowledge weighs, in rows.
const PRIOR_ROWS: f64 = 2.0;
/// A class that never was, in a column that may hold it.
const RARE: f64 = 1e-3;

/// A value as far as it is seen: of one on overflow pages the kind and the length are known all the same.
struct Seen<'a> {
    class: usize,
    /// On a scale on which ids, times and lengths lie apart.
    size: f64,
    value: Option<Value<'a>>,
}

fn seen<'a>(record: &Record<'a>) -> impl Iterator<Item = Seen<'a>> + use<'a> {
    let payload = record.payload();
    record.columns().map_while(Result::ok).map(move |column| {
        let value = column.value(payload);
        let (class, size) = match (column.serial_type, value) {
            (0, _) | (_, Some(Value::Null)) => (0, 0.0),
            (_, Some(Value::Integer(number))) => (1, number.unsigned_abs() as f64),
            (_, Some(Value::Real(number))) => (2, if number.is_finite() { number.abs() } else { f64::MAX }),
            (7, _) => (2, 1.0),
            (blob @ 12.., _) if blob % 2 == 0 => (4, column.len as f64),
            (12.., _) => (3, column.len as f64),
            _ => (1, 1.0),
        };
        Seen { class, size: size.ln_1p(), value }
    })
}

impl TableShape {
    /// Whether a record can be a row of it.
    pub fn fits(&self, record: &Record<'_>) -> bool {
        let mut count = 0;
        for (at, seen) in seen(record).enumerate() {
            count += 1;
            let Some(column) = self.columns.get(at) else { return !self.known };
            let fits = match (column.affinity, seen.class) {
                (_, class) if column.is_rowid => class == 0,
                (_, 0) => !column.not_null,
                (Affinity::Text, 1 | 2) => false,
                (Affinity::Integer | Affinity::Real | Affinity::Numeric, 3) => {
                    !matches!(seen.value, Some(Value::Text(text)) if is_number(text))
                }
                _ => true,
            };
            if !fits && self.known {
                return false;
            }
        }
        count > 0
    }
}

/// A text that such a column would have made a number of. In UTF-16 none looks so, and then nothing is refused.
fn is_number(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(u8::is_ascii_digit) && text.len() < 15
}

/// What a table's rows look like, learned from those that are its own.
#[derive(Debug, Clone, Default)]
pub struct Profile {
    columns: Vec<Learned>,
    /// Rows by number of columns: after ALTER TABLE there are shorter ones.
    lengths: std::collections::BTreeMap<usize, u32>,
    rows: f64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Learned {
    seen: [f64; CLASSES],
    sum: [f64; CLASSES],
    squares: [f64; CLASSES],
}

impl Profile {
    /// Rows that it learned from.
    pub fn rows(&self) -> f64 {
        self.rows
    }

    /// Takes a row as an example.
    pub fn learn(&mut self, record: &Record<'_>) {
        let mut count = 0;
        for (at, Seen { class, size, .. }) in seen(record).enumerate() {
            count += 1;
            if self.columns.len() <= at {
                self.columns.resize(at + 1, Learned::default());
            }
            if let Some(column) = self.columns.get_mut(at) {
                column.seen[class] += 1.0;
                column.sum[class] += size;
                column.squares[class] += size * size;
            }
        }
        *self.lengths.entry(count).or_default() += 1;
        self.rows += 1.0;
    }

    /// Whether a row has as many columns as one that it learned from, and in each a class of value that stood there, or NULL.
    pub fn has_seen(&self, record: &Record<'_>) -> bool {
        let mut count = 0;
        let classes = seen(record).enumerate().all(|(at, seen)| {
            count += 1;
            seen.class == 0 || self.columns.get(at).is_some_and(|column| column.seen[seen.class] > 0.0)
        });
        classes && self.lengths.contains_key(&count)
    }

    /// How likely a row is this table's, as a logarithm; more is likelier, and only differences mean anything.
    pub fn likeness(&self, shape: &TableShape, record: &Record<'_>) -> f64 {
        let mut likeness = 0.0;
        let mut count = 0;
        for (at, Seen { class, size, .. }) in seen(record).enumerate() {
            count += 1;
            let declared = shape.columns.get(at);
            let mut expected = declared.map_or(Affinity::Blob, |column| column.affinity).expected();
            if let Some(column) = declared.filter(|_| shape.known) {
                if column.is_rowid {
                    expected = [1.0, 0.0, 0.0, 0.0, 0.0];
                } else if column.not_null {
                    expected[0] = 0.0;
                }
            }
            let learned = self.columns.get(at).copied().unwrap_or_default();
            let rows = learned.seen.iter().sum::<f64>();
            let share = (learned.seen[class] + PRIOR_ROWS * expected[class]) / (rows + PRIOR_ROWS);
            likeness += share.max(RARE).ln();
            if class > 0 {
                likeness += learned.density(class, size);
            }
        }
        let of_length = f64::from(self.lengths.get(&count).copied().unwrap_or(0));
        let whole = if count == shape.columns.len() { PRIOR_ROWS } else { PRIOR_ROWS * 0.02 };
        likeness + ((of_length + whole) / (self.rows + PRIOR_ROWS)).ln()
    }
}

impl Learned {
    /// Of a normal distribution; of a broad one where too little is known.
    fn density(&self, class: usize, size: f64) -> f64 {
        let count = self.seen[class];
        let (mean, variance) = if count >= 3.0 {
            let mean = self.sum[class] / count;
            (mean, (self.squares[class] / count - mean * mean).max(0.0) + 0.1 + 2.0 / count)
        } else {
            (5.0, 25.0)
        };
        let far = (size - mean) * (size - mean) / variance;
        // Outliers happen.
        -0.5 * (far.min(30.0) + variance.ln())
    }
}
