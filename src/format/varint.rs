//! The format's integers of variable length: seven bits a byte, high bits first, and eight in the ninth.
//!
//! <https://sqlite.org/fileformat2.html#varint>; `sqlite3GetVarint` in `util.c`. A longer form than needed is read like any other, as
//! SQLite does.

/// The longest varint, in bytes.
pub const VARINT_MAX: usize = 9;

/// The varint at `at` and its length in bytes; `None` where the bytes end before it does.
#[inline]
pub fn read_varint(bytes: &[u8], at: usize) -> Option<(u64, usize)> {
    let tail = bytes.get(at..)?;
    // Nearly all are this short, and the loop costs more than these tests.
    match *tail {
        [first, ..] if first < 0x80 => Some((u64::from(first), 1)),
        [first, second, ..] if second < 0x80 => Some((u64::from(first & 0x7f) << 7 | u64::from(second), 2)),
        // Most rowids.
        [first, second, third, ..] if third < 0x80 => {
            let high = u64::from(first & 0x7f) << 14 | u64::from(second & 0x7f) << 7;
            Some((high | u64::from(third), 3))
        }
        _ => long(tail),
    }
}

/// Bytes that SQLite writes for `value`.
pub fn varint_len(value: u64) -> usize {
    match 64 - value.leading_zeros() {
        0..=7 => 1,
        bits @ 8..=56 => bits.div_ceil(7) as usize,
        _ => VARINT_MAX,
    }
}

#[inline(never)]
fn long(tail: &[u8]) -> Option<(u64, usize)> {
    let mut value = 0;
    for (index, byte) in tail.iter().take(VARINT_MAX - 1).enumerate() {
        value = value << 7 | u64::from(byte & 0x7f);
        if *byte < 0x80 {
            return Some((value, index + 1));
        }
    }
    Some((value << 8 | u64::from(*tail.get(VARINT_MAX - 1)?), VARINT_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(value: u64) -> Vec<u8> {
        if varint_len(value) == VARINT_MAX {
            let mut bytes: Vec<u8> = (0..8).rev().map(|n| (value >> (8 + 7 * n)) as u8 | 0x80).collect();
            bytes.push(value as u8);
            return bytes;
        }
        let mut bytes: Vec<u8> = (0..varint_len(value)).rev().map(|n| (value >> (7 * n)) as u8 | 0x80).collect();
        *bytes.last_mut().unwrap() &= 0x7f;
        bytes
    }

    #[test]
    fn each_length_is_read_to_its_edges_and_not_past_the_end() {
        for bits in 0..=64 {
            for value in [(1u64 << (bits % 64)).wrapping_sub(1), 1 << (bits % 64), u64::MAX >> (bits % 64)] {
                let bytes = written(value);
                assert_eq!(read_varint(&bytes, 0), Some((value, bytes.len())), "{value:x}");
                assert_eq!(read_varint(&bytes[..bytes.len() - 1], 0), None, "{value:x}");
                assert_eq!(varint_len(value), bytes.len());
            }
        }
        assert_eq!(read_varint(&[0x80, 0x80, 5], 0), Some((5, 3)), "a longer form than needed");
        assert_eq!(read_varint(&[1], 2), None);
        assert_eq!(read_varint(&[1], usize::MAX), None);
    }
}
