//! Text in a database's encoding, for people and for names in the schema. What a row holds stays bytes.

use super::Encoding;

impl Encoding {
    /// The text that these bytes are in this encoding; what is none becomes U+FFFD. A zero is a character like any other, and a single
    /// byte behind the last pair of UTF-16 is dropped, as SQLite drops it.
    pub fn decode(self, bytes: &[u8]) -> String {
        let pairs = |unit: fn([u8; 2]) -> u16| {
            let units = bytes.chunks_exact(2).map(move |pair| unit([pair[0], pair[1]]));
            char::decode_utf16(units).map(|decoded| decoded.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
        };
        match self {
            Encoding::Utf16Le => pairs(u16::from_le_bytes),
            Encoding::Utf16Be => pairs(u16::from_be_bytes),
            // SQLite goes by the lowest two bits; of 0, as of a new database, it makes UTF-8.
            Encoding::Odd(field) if field & 3 == 2 => pairs(u16::from_le_bytes),
            Encoding::Odd(field) if field & 3 == 3 => pairs(u16::from_be_bytes),
            Encoding::Utf8 | Encoding::Odd(_) => String::from_utf8_lossy(bytes).into_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_encoding_gives_the_same_text() {
        for (encoding, bytes) in [
            (Encoding::Utf8, &b"a\0\xc3\xa9"[..]),
            (Encoding::Utf16Le, b"a\0\0\0\xe9\0"),
            (Encoding::Utf16Be, b"\0a\0\0\0\xe9\0"),
            (Encoding::Odd(6), b"a\0\0\0\xe9\0"),
            (Encoding::Odd(5), b"a\0\xc3\xa9"),
        ] {
            assert_eq!(encoding.decode(bytes), "a\0é");
        }
        assert_eq!(Encoding::Utf8.decode(b"\xff"), "\u{fffd}");
        assert_eq!(Encoding::Utf16Le.decode(b"\0\xd8"), "\u{fffd}");
    }
}
