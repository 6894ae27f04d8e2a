//! Values as SQLite compares them (`sqlite3VdbeRecordCompareWithSkip` and `sqlite3MemCompare` in `vdbeaux.c`), and a digest of them that
//! is the same for all that are the same to it: an integer and a float of the same value are, for a column of floats stores whole ones as
//! integers.

use std::cmp::Ordering;

use super::super::varint::read_varint;
use super::super::{Value, content_len};
use super::content::{Absent, Collation, KeyPart};

/// A column's place in a payload, and what stands there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spot {
    /// In bytes from the payload's beginning.
    at: u32,
    len: u32,
    pub kind: Kind,
}

/// What a serial type says of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Null,
    Zero,
    One,
    Integer,
    Real,
    Text,
    Blob,
}

/// Where the first `columns` columns of a record lie; fewer if it has fewer. The error is how many bytes of the payload it takes to tell.
#[inline]
pub(super) fn spots(payload: &[u8], columns: usize, into: &mut Vec<Spot>) -> Result<(), usize> {
    into.clear();
    let (header_len, width) = read_varint(payload, 0).unwrap_or((0, 0));
    // A sound record's header is within its payload, and was looked at; no payload is longer than these numbers hold.
    let header_len = usize::try_from(header_len).unwrap_or(0);
    let mut at = header_len as u32;
    let mut types = payload.get(..header_len).ok_or(header_len)?.get(width..).unwrap_or_default();
    while into.len() < columns {
        let (serial_type, rest) = match *types {
            [] => break,
            [small @ ..=0x7f, ref rest @ ..] => (u64::from(small), rest),
            _ => {
                let Some((serial_type, width)) = read_varint(types, 0) else { break };
                (serial_type, types.get(width..).unwrap_or_default())
            }
        };
        types = rest;
        let len = content_len(serial_type).map_or(0, |len| u32::try_from(len).unwrap_or(u32::MAX));
        let kind = match serial_type {
            0 | 10 | 11 => Kind::Null,
            1..=6 => Kind::Integer,
            7 => Kind::Real,
            8 => Kind::Zero,
            9 => Kind::One,
            blob if blob % 2 == 0 => Kind::Blob,
            _ => Kind::Text,
        };
        into.push(Spot { at, len, kind });
        at = at.saturating_add(len);
    }
    Ok(())
}

impl Spot {
    /// Where its content ends, in bytes from the payload's beginning.
    #[inline]
    pub(super) fn end(&self) -> usize {
        self.at as usize + self.len as usize
    }

    /// The content; NULL where the payload does not have it.
    #[inline(always)]
    pub(super) fn value<'a>(&self, payload: &'a [u8]) -> Value<'a> {
        let bytes = payload.get(self.at as usize..self.end());
        match (self.kind, bytes) {
            (Kind::Zero, _) => Value::Integer(0),
            (Kind::One, _) => Value::Integer(1),
            (Kind::Null, _) | (_, None) => Value::Null,
            (Kind::Integer, Some(bytes)) => Value::Integer(integer(bytes)),
            (Kind::Real, Some(bytes)) => {
                let float = f64::from_be_bytes(bytes.first_chunk::<8>().copied().unwrap_or_default());
                if float.is_nan() { Value::Null } else { Value::Real(float) }
            }
            (Kind::Text, Some(bytes)) => Value::Text(bytes),
            (Kind::Blob, Some(bytes)) => Value::Blob(bytes),
        }
    }
}

/// Big-endian, in two's complement, of one to eight bytes.
#[inline]
fn integer(bytes: &[u8]) -> i64 {
    match *bytes {
        [a] => i64::from(a.cast_signed()),
        [a, b] => i64::from(i16::from_be_bytes([a, b])),
        [a, b, c] => i64::from(i32::from_be_bytes([a, b, c, 0]) >> 8),
        [a, b, c, d] => i64::from(i32::from_be_bytes([a, b, c, d])),
        [a, b, c, d, e, f] => i64::from_be_bytes([a, b, c, d, e, f, 0, 0]) >> 16,
        [a, b, c, d, e, f, g, h] => i64::from_be_bytes([a, b, c, d, e, f, g, h]),
        _ => 0,
    }
}

impl Absent {
    /// What a row without the column has.
    pub(super) fn value(&self) -> Option<Value<'_>> {
        Some(match self {
            Absent::Null => Value::Null,
            Absent::Integer(value) => Value::Integer(*value),
            Absent::Real(value) => Value::Real(*value),
            Absent::Text(bytes) => Value::Text(bytes),
            Absent::Blob(bytes) => Value::Blob(bytes),
            Absent::Unknown => return None,
        })
    }
}

/// An integer, where a float is one. What SQLite's comparison of the two calls equal (`sqlite3IntFloatCompare`).
#[inline]
fn whole(float: f64) -> Option<i64> {
    // 2^63 is the first that is too large; its negative is not.
    let fits = (-9_223_372_036_854_775_808.0..9_223_372_036_854_775_808.0).contains(&float);
    let whole = float as i64;
    (fits && whole as f64 == float).then_some(whole)
}

/// A sum of these over all entries says, whatever their order, whether two sets are the same: 128 bits, so that no accident makes two
/// different ones agree.
#[derive(Debug, Clone, Copy)]
pub(super) struct Digest {
    a: u64,
    b: u64,
}

impl Digest {
    pub(super) fn new() -> Digest {
        Digest { a: 0x243f_6a88_85a3_08d3, b: 0x1319_8a2e_0370_7344 }
    }

    /// Each step can be undone for a given word: one different word never ends in the same.
    #[inline(always)]
    fn word(&mut self, word: u64, kind: u64) {
        self.a = (self.a ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.a ^= self.a >> 32 ^ kind;
        self.b = self.b.rotate_left(27).wrapping_add(word).wrapping_mul(0xd6e8_feb8_6659_fd93);
        self.b ^= self.b >> 29 ^ kind << 7;
    }

    #[inline(always)]
    fn bytes(&mut self, bytes: &[u8], kind: u64) {
        self.word(bytes.len() as u64, kind);
        let chunks = bytes.chunks_exact(8);
        let rest = chunks.remainder();
        for chunk in chunks {
            self.word(chunk.first_chunk::<8>().map_or(0, |word| u64::from_le_bytes(*word)), kind);
        }
        if !rest.is_empty() {
            // The length tells the padding from zeros.
            self.word(rest.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)), kind);
        }
    }

    #[inline(always)]
    pub(super) fn value(&mut self, value: Value<'_>) {
        match value {
            Value::Null => self.word(0, 1),
            Value::Integer(value) => self.word(value.cast_unsigned(), 2),
            Value::Real(value) => match whole(value) {
                Some(value) => self.word(value.cast_unsigned(), 2),
                None => self.word(value.to_bits(), 3),
            },
            Value::Text(bytes) => self.bytes(bytes, 4),
            Value::Blob(bytes) => self.bytes(bytes, 5),
        }
    }

    pub(super) fn finish(self) -> u128 {
        let mix = |mut word: u64| {
            word = (word ^ word >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
            word = (word ^ word >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
            word ^ word >> 33
        };
        u128::from(mix(self.a)) << 64 | u128::from(mix(self.b ^ self.a.rotate_left(32)))
    }
}

/// How two keys compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Compared {
    pub ordering: Ordering,
    /// Columns at the beginning that are the same.
    pub same: usize,
    /// How many of these come before the first NULL.
    pub same_and_some: usize,
}

/// Compares two keys of an index, or of a table without rowids.
#[inline]
pub(super) fn compare(a: (&[Spot], &[u8]), b: (&[Spot], &[u8]), parts: &[KeyPart]) -> Compared {
    let mut compared = Compared { ordering: Ordering::Equal, same: 0, same_and_some: 0 };
    let mut has_null = false;
    for ((left, right), part) in a.0.iter().zip(b.0).zip(parts) {
        let (left, right) = (left.value(a.1), right.value(b.1));
        let ordering = values(left, right, part.collation);
        if ordering != Ordering::Equal {
            compared.ordering = if part.descending { ordering.reverse() } else { ordering };
            break;
        }
        has_null |= left == Value::Null;
        compared.same += 1;
        compared.same_and_some += usize::from(!has_null);
    }
    compared
}

/// The order of two keys, as an index or a table without rowids has them.
pub fn key_order(a: &[Value<'_>], b: &[Value<'_>], parts: &[KeyPart]) -> Ordering {
    let mut ordered = a.iter().zip(b).zip(parts).map(|((a, b), part)| {
        let ordering = values(*a, *b, part.collation);
        if part.descending { ordering.reverse() } else { ordering }
    });
    ordered.find(|ordering| *ordering != Ordering::Equal).unwrap_or(Ordering::Equal)
}

#[inline(always)]
fn values(a: Value<'_>, b: Value<'_>, collation: Collation) -> Ordering {
    use Value::{Blob, Integer, Real, Text};
    match (a, b) {
        (Integer(a), Integer(b)) => a.cmp(&b),
        (Text(a), Text(b)) => texts(a, b, collation),
        (Blob(a), Blob(b)) => a.cmp(b),
        // Neither is NaN: that is a NULL.
        (Real(a), Real(b)) => a.partial_cmp(&b).unwrap_or(Ordering::Equal),
        (Integer(a), Real(b)) => integer_and_float(a, b),
        (Real(a), Integer(b)) => integer_and_float(b, a).reverse(),
        (a, b) => class(a).cmp(&class(b)),
    }
}

/// NULL, numbers, texts, blobs.
fn class(value: Value<'_>) -> u8 {
    match value {
        Value::Null => 0,
        Value::Integer(_) | Value::Real(_) => 1,
        Value::Text(_) => 2,
        Value::Blob(_) => 3,
    }
}

/// `sqlite3IntFloatCompare`.
fn integer_and_float(integer: i64, float: f64) -> Ordering {
    if float < -9_223_372_036_854_775_808.0 {
        return Ordering::Greater;
    }
    if float >= 9_223_372_036_854_775_808.0 {
        return Ordering::Less;
    }
    let by_whole = integer.cmp(&(float as i64));
    by_whole.then_with(|| (integer as f64).partial_cmp(&float).unwrap_or(Ordering::Equal))
}

fn texts(a: &[u8], b: &[u8], collation: Collation) -> Ordering {
    match collation {
        Collation::Binary => a.cmp(b),
        Collation::NoCase => no_case(a, b),
        Collation::RightTrim => trimmed(a).cmp(trimmed(b)),
    }
}

fn trimmed(text: &[u8]) -> &[u8] {
    let end = text.iter().rposition(|byte| *byte != b' ').map_or(0, |last| last + 1);
    text.get(..end).unwrap_or_default()
}

/// As `sqlite3_strnicmp`: two texts with a NUL at the same place are the same from there on, but for their lengths.
fn no_case(a: &[u8], b: &[u8]) -> Ordering {
    for (a, b) in a.iter().map(u8::to_ascii_lowercase).zip(b.iter().map(u8::to_ascii_lowercase)) {
        match a.cmp(&b) {
            Ordering::Equal if a == 0 => break,
            Ordering::Equal => {}
            ordering => return ordering,
        }
    }
    a.len().cmp(&b.len())
}

/// Whether SQLite could make a number of all of this text (`sqlite3AtoF`): spaces, a sign, digits with a point, an exponent, spaces.
pub(super) fn is_number(text: &[u8]) -> bool {
    fn skip(text: &[u8], is: impl Fn(&u8) -> bool) -> (usize, &[u8]) {
        let count = text.iter().take_while(|byte| is(byte)).count();
        (count, text.get(count..).unwrap_or_default())
    }
    fn signed(text: &[u8]) -> &[u8] {
        text.strip_prefix(b"+").or_else(|| text.strip_prefix(b"-")).unwrap_or(text)
    }
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t'..=b'\r');
    let (mut digits, mut rest) = skip(signed(skip(text, is_space).1), u8::is_ascii_digit);
    if let Some(fraction) = rest.strip_prefix(b".") {
        let (more, behind) = skip(fraction, u8::is_ascii_digit);
        (digits, rest) = (digits + more, behind);
    }
    if let Some(exponent) = rest.strip_prefix(b"e").or_else(|| rest.strip_prefix(b"E")) {
        let (more, behind) = skip(signed(exponent), u8::is_ascii_digit);
        if more == 0 {
            return false;
        }
        rest = behind;
    }
    digits > 0 && rest.iter().all(is_space)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_a_number_where_sqlite_makes_one_of_it() {
        let db = rusqlite::Connection::open_in_memory().unwrap();
        db.execute_batch("CREATE TABLE t(n NUMERIC)").unwrap();
        let parts = ["", " ", "\t", "+", "-", "1", "23", ".", "e", "E", "e5", "e+", "x", "0", "\u{b}", "inf", "0x1"];
        let mut insert = db.prepare("INSERT INTO t VALUES(?1) RETURNING typeof(n)").unwrap();
        for a in parts {
            for b in parts {
                for c in parts {
                    let text = format!("{a}{b}{c}");
                    let made: String = insert.query_row([&text], |row| row.get(0)).unwrap();
                    assert_eq!(is_number(text.as_bytes()), made != "text", "{text:?}");
                }
            }
        }
    }

    #[test]
    fn what_is_the_same_to_sqlite_has_one_digest_and_what_is_not_has_another() {
        use Value::{Blob, Integer, Null, Real, Text};
        let digest = |values: &[Value<'_>]| {
            let mut digest = Digest::new();
            values.iter().for_each(|value| digest.value(*value));
            digest.finish()
        };
        let values = [
            Null,
            Integer(0),
            Integer(1),
            Integer(3),
            Integer(i64::MIN),
            Integer(i64::MAX),
            Integer(9_007_199_254_740_993),
            Real(0.5),
            Real(9.3e18),
            Real(f64::INFINITY),
            Text(b""),
            Text(b"a"),
            Text(b"a\0"),
            Text(b"abcdefgh"),
            Text(b"abcdefgh\0"),
            Blob(b""),
            Blob(b"a"),
        ];
        for (at, value) in values.iter().enumerate() {
            for (other_at, other) in values.iter().enumerate() {
                let is_same = at == other_at;
                assert_eq!(digest(&[*value]) == digest(&[*other]), is_same, "{value:?} {other:?}");
                assert_eq!(super::values(*value, *other, Collation::Binary) == Ordering::Equal, is_same);
                let swapped = digest(&[*value, *other]) == digest(&[*other, *value]);
                assert_eq!(swapped, is_same);
            }
        }
        for (integer, float) in
            [(0, -0.0), (5, 5.0), (i64::MIN, -9_223_372_036_854_775_808.0), (1 << 60, 2_f64.powi(60))]
        {
            assert_eq!(digest(&[Integer(integer)]), digest(&[Real(float)]), "{integer}");
            assert_eq!(super::values(Integer(integer), Real(float), Collation::Binary), Ordering::Equal);
        }
        assert_ne!(digest(&[Text(b"ab"), Text(b"c")]), digest(&[Text(b"a"), Text(b"bc")]));
    }

    #[test]
    fn texts_compare_as_sqlite_compares_them() {
        let db = rusqlite::Connection::open_in_memory().unwrap();
        let texts = [
            "", "a", "A", "b", "a ", "a  ", " a", "ab", "aB", "a\0b", "A\0c", "a\0", "z", "Z", "[", "{", "\u{e9}",
            "\u{c9}",
        ];
        for (collation, name) in
            [(Collation::Binary, "BINARY"), (Collation::NoCase, "NOCASE"), (Collation::RightTrim, "RTRIM")]
        {
            let sql = format!("SELECT (?1 > ?2 COLLATE {name}) - (?1 < ?2 COLLATE {name})");
            let mut compare = db.prepare(&sql).unwrap();
            for a in texts {
                for b in texts {
                    let theirs: i64 = compare.query_row([a, b], |row| row.get(0)).unwrap();
                    let ours = super::texts(a.as_bytes(), b.as_bytes(), collation) as i64;
                    assert_eq!(ours, theirs, "{a:?} {b:?} {name}");
                }
            }
        }
    }
}
