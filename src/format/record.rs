//! A record: the row or the key that a payload holds.
//!
//! ```text
//! header length (varint, itself included)  a serial type (varint) per column   then the columns' contents
//! type 0 NULL  1-6 integer of 1 2 3 4 6 8 bytes  7 float  8 and 9 the integers 0 and 1  10 and 11 reserved
//!      even from 12 on: a blob of (type - 12) / 2 bytes, odd: a text of (type - 13) / 2
//! ```
//! Big-endian; <https://sqlite.org/fileformat2.html#record_format>; `OP_Column` in `vdbe.c`. A row has fewer columns than its table
//! after ALTER TABLE ADD COLUMN: the rest have their defaults.

use thiserror::Error;

use super::varint::read_varint;

/// No header is longer, in bytes: 32,767 columns of three bytes each, and its own length. SQLite calls a longer one corrupt.
pub const RECORD_HEADER_MAX: u64 = 98_307;

/// A column's content. Text is in the database's encoding, and may be no text at all.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value<'a> {
    /// NULL; also a float that is not a number, which SQLite reads so.
    Null,
    /// An integer; in a REAL column a float that was stored as one.
    Integer(i64),
    /// A float.
    Real(f64),
    /// Bytes in the database's encoding.
    Text(&'a [u8]),
    /// Bytes.
    Blob(&'a [u8]),
}

/// Why a payload is not a record that SQLite wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RecordError {
    /// No bytes, or a header without a column; SQLite writes neither.
    #[error("the record has no column")]
    Empty,
    /// The header claims more than the payload has, or than any header.
    #[error("the record's header claims {0} bytes")]
    HeaderTooLong(u64),
    /// Its last serial type does not end where it does.
    #[error("a serial type crosses the end of the record's header")]
    TypeCrossesHeader,
    /// 10 or 11.
    #[error("the record has the reserved serial type {0}")]
    ReservedType(u64),
    /// The columns need more than the payload has.
    #[error("the record's columns need {needed} bytes and its payload has {payload}")]
    Short {
        /// Bytes of header and columns.
        needed: u64,
        /// Bytes of the payload.
        payload: u32,
    },
    /// The payload has bytes that no column needs.
    #[error("the record's columns need {needed} bytes of a payload of {payload}")]
    Long {
        /// Bytes of header and columns.
        needed: u64,
        /// Bytes of the payload.
        payload: u32,
    },
}

/// What can be said of a record by its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Soundness {
    /// Header and payload agree.
    Sound,
    /// The header itself goes on in overflow pages: only [`Record::check`] of the whole payload can tell.
    Unknown,
}

/// A column's content that outlives its page.
#[derive(Debug, Clone, PartialEq)]
pub enum Owned {
    /// NULL.
    Null,
    /// An integer.
    Integer(i64),
    /// A float.
    Real(f64),
    /// Bytes in the database's encoding.
    Text(Vec<u8>),
    /// Bytes.
    Blob(Vec<u8>),
}

impl Owned {
    /// A copy of it.
    pub fn of(value: Value<'_>) -> Owned {
        match value {
            Value::Null => Owned::Null,
            Value::Integer(number) => Owned::Integer(number),
            Value::Real(number) => Owned::Real(number),
            Value::Text(bytes) => Owned::Text(bytes.to_vec()),
            Value::Blob(bytes) => Owned::Blob(bytes.to_vec()),
        }
    }

    /// As it was read.
    pub fn value(&self) -> Value<'_> {
        match self {
            Owned::Null => Value::Null,
            Owned::Integer(number) => Value::Integer(*number),
            Owned::Real(number) => Value::Real(*number),
            Owned::Text(bytes) => Value::Text(bytes),
            Owned::Blob(bytes) => Value::Blob(bytes),
        }
    }
}

/// A column's place in its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    /// The serial type.
    pub serial_type: u64,
    /// Where the content begins, in bytes from the payload's beginning.
    pub at: u64,
    /// Bytes of content.
    pub len: u64,
}

/// A record whose header's length is known to be possible. The payload may be cut: columns say where they lie.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    payload: &'a [u8],
    header_len: u32,
    types_at: u32,
}

/// Bytes of a one-byte serial type's content; for the reserved ones more than any payload has, so that no test of their own is needed.
const CONTENT_LEN: [u32; 128] = {
    let mut len = [0; 128];
    let mut serial_type = 0;
    while serial_type < 128 {
        len[serial_type] = match serial_type {
            0 | 8 | 9 => 0,
            5 => 6,
            6 | 7 => 8,
            1..=4 => serial_type as u32,
            10 | 11 => u32::MAX,
            _ => (serial_type as u32 - 12) / 2,
        };
        serial_type += 1;
    }
    len
};

/// Bytes of content of this serial type; `None` for the reserved ones.
#[inline]
pub fn content_len(serial_type: u64) -> Option<u64> {
    match serial_type {
        10 | 11 => None,
        12.. => Some((serial_type - 12) / 2),
        small => CONTENT_LEN.get(small as usize).map(|len| u64::from(*len)),
    }
}

/// Whether the record that begins with `local` fits its payload of `payload_len` bytes. Reads the header alone: for a scrub.
///
/// # Errors
/// [`RecordError`].
#[inline]
pub fn record_is_sound(local: &[u8], payload_len: u32) -> Result<Soundness, RecordError> {
    // The usual header: below 128 bytes, all of it here.
    if let [len @ 2..0x80, ..] = *local
        && let Some(types) = local.get(1..usize::from(len))
    {
        let mut needed = u64::from(len);
        let mut rest = types;
        loop {
            rest = match *rest {
                [] => break,
                [small @ ..=0x7f, ref rest @ ..] => {
                    needed += u64::from(CONTENT_LEN.get(usize::from(small)).copied().unwrap_or(u32::MAX));
                    rest
                }
                // Texts and blobs of up to 8 KiB. A longer form than needed of a small type is not for here.
                [high @ 0x81..=0xff, low @ ..=0x7f, ref rest @ ..] => {
                    needed += ((u64::from(high & 0x7f) << 7 | u64::from(low)) - 12) / 2;
                    rest
                }
                _ => return sound_in_full(local, payload_len),
            };
        }
        if needed == u64::from(payload_len) {
            return Ok(Soundness::Sound);
        }
    }
    sound_in_full(local, payload_len)
}

/// The same for any header; says what is wrong.
fn sound_in_full(local: &[u8], payload_len: u32) -> Result<Soundness, RecordError> {
    let record = Record::parse(local)?;
    let len = record.header_len;
    if len > payload_len {
        return Err(RecordError::HeaderTooLong(len.into()));
    }
    if len as usize > local.len() && local.len() < payload_len as usize {
        return Ok(Soundness::Unknown);
    }
    record.check(payload_len).map(|()| Soundness::Sound)
}

impl<'a> Record<'a> {
    /// Reads the header's length of a payload, or of its beginning.
    ///
    /// # Errors
    /// [`RecordError::Empty`] and [`RecordError::HeaderTooLong`].
    #[inline]
    pub fn parse(payload: &'a [u8]) -> Result<Record<'a>, RecordError> {
        let (header_len, types_at) = read_varint(payload, 0).ok_or(RecordError::Empty)?;
        if header_len > RECORD_HEADER_MAX {
            return Err(RecordError::HeaderTooLong(header_len));
        }
        if header_len <= types_at as u64 {
            return Err(RecordError::Empty);
        }
        Ok(Record { payload, header_len: header_len as u32, types_at: types_at as u32 })
    }

    /// The bytes that it was read from.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// Bytes of the header.
    #[inline]
    pub fn header_len(&self) -> u32 {
        self.header_len
    }

    /// Compares the header with a payload of `payload_len` bytes, of which at least the header must be at hand.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn check(&self, payload_len: u32) -> Result<(), RecordError> {
        if self.header_len > payload_len || self.header_len as usize > self.payload.len() {
            return Err(RecordError::HeaderTooLong(self.header_len.into()));
        }
        let mut needed = u64::from(self.header_len);
        for column in self.columns() {
            let column = column?;
            needed = needed.saturating_add(column.len);
        }
        match needed.cmp(&u64::from(payload_len)) {
            std::cmp::Ordering::Equal => Ok(()),
            std::cmp::Ordering::Greater => Err(RecordError::Short { needed, payload: payload_len }),
            std::cmp::Ordering::Less => Err(RecordError::Long { needed, payload: payload_len }),
        }
    }

    /// Where each column lies. An error ends it: behind a type that cannot be read nothing has a place.
    #[inline]
    pub fn columns(&self) -> Columns<'a> {
        let end = (self.header_len as usize).min(self.payload.len());
        Columns {
            types: self.payload.get(self.types_at as usize..end).unwrap_or_default(),
            is_cut: (self.header_len as usize) > self.payload.len(),
            at: self.header_len.into(),
        }
    }

    /// The contents of the columns in turn. A column that lies behind the end of a cut payload is an error of its own and ends nothing.
    #[inline]
    pub fn values(&self) -> impl Iterator<Item = Result<Value<'a>, RecordError>> + use<'a> {
        let payload = self.payload;
        self.columns().map(move |column| {
            let column = column?;
            column.value(payload).ok_or(RecordError::Short {
                needed: column.at.saturating_add(column.len),
                payload: u32::try_from(payload.len()).unwrap_or(u32::MAX),
            })
        })
    }
}

/// The columns of a record; see [`Record::columns`].
#[derive(Debug, Clone)]
pub struct Columns<'a> {
    types: &'a [u8],
    /// The header goes on behind the bytes at hand.
    is_cut: bool,
    at: u64,
}

impl Iterator for Columns<'_> {
    type Item = Result<Column, RecordError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.types.is_empty() {
            return std::mem::take(&mut self.is_cut).then_some(Err(RecordError::TypeCrossesHeader));
        }
        let types = std::mem::take(&mut self.types);
        let Some((serial_type, width)) = read_varint(types, 0) else {
            self.is_cut = false;
            return Some(Err(RecordError::TypeCrossesHeader));
        };
        let Some(len) = content_len(serial_type) else {
            self.is_cut = false;
            return Some(Err(RecordError::ReservedType(serial_type)));
        };
        self.types = types.get(width..).unwrap_or_default();
        let at = self.at;
        // Every type is at most 2^63 long; two of them could pass the end of the numbers.
        self.at = at.saturating_add(len);
        Some(Ok(Column { serial_type, at, len }))
    }
}

impl Column {
    /// The content; `None` when the payload at hand does not have all of it.
    #[inline]
    pub fn value<'a>(&self, payload: &'a [u8]) -> Option<Value<'a>> {
        let start = usize::try_from(self.at).ok()?;
        let end = start.checked_add(usize::try_from(self.len).ok()?)?;
        // A column without content may stand behind the end of a cut payload.
        let bytes = if self.len == 0 { &[] } else { payload.get(start..end)? };
        Some(match self.serial_type {
            0 | 10 | 11 => Value::Null,
            1..=6 => Value::Integer(integer(bytes)),
            7 => match f64::from_be_bytes(bytes.try_into().ok()?) {
                float if float.is_nan() => Value::Null,
                float => Value::Real(float),
            },
            8 => Value::Integer(0),
            9 => Value::Integer(1),
            blob if blob % 2 == 0 => Value::Blob(bytes),
            _ => Value::Text(bytes),
        })
    }
}

/// Big-endian, in two's complement, of one to eight bytes.
fn integer(bytes: &[u8]) -> i64 {
    let sign = if bytes.first().is_some_and(|first| *first >= 0x80) { -1 } else { 0 };
    bytes.iter().fold(sign, |value, byte| value << 8 | i64::from(*byte))
}

#[cfg(test)]
mod tests;
