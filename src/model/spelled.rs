//! Durations and sizes as people write them: "30s", "1h 30m", "100MB", "64KiB".
//!
//! A bare number is refused: nobody remembers which unit a file meant.

use std::fmt;
use std::time::Duration;

use jiff::SpanRelativeTo;
use jiff::fmt::friendly::SpanParser;
use serde::de::{Deserialize, Deserializer, Error, Unexpected, Visitor};

/// A duration above zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Period(pub Duration);

/// A duration that may be zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Delay(pub Duration);

/// A number of bytes above zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

/// Reads a duration such as "30s", "1h 30m" or "2d"; a day is 24 hours.
///
/// # Errors
/// What is wrong with it, in words.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let hint = "write it like \"30s\", \"1h 30m\" or \"2d\"";
    let text = text.trim();
    if text.parse::<f64>().is_ok() {
        return Err(format!("the duration \"{text}\" has no unit: {hint}"));
    }
    let span = SpanParser::new().parse_span(text).map_err(|_| format!("\"{text}\" is not a duration: {hint}"))?;
    let signed = span
        .to_duration(SpanRelativeTo::days_are_24_hours())
        .map_err(|_| format!("\"{text}\" has no fixed length: {hint}"))?;
    Duration::try_from(signed).map_err(|_| format!("\"{text}\" is negative: {hint}"))
}

/// The same for one that must take some time.
///
/// # Errors
/// As [`parse_duration`], and of zero.
pub fn parse_positive_duration(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        Duration::ZERO => Err("this duration must be more than zero".to_owned()),
        duration => Ok(duration),
    }
}

/// Reads a size such as "100MB" (decimal) or "64KiB" (binary).
///
/// # Errors
/// What is wrong with it, in words.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let hint = "write it like \"100MB\" or \"64KiB\"";
    let text = text.trim();
    if text.parse::<f64>().is_ok() {
        return Err(format!("the size \"{text}\" has no unit: {hint}"));
    }
    text.parse::<bytesize::ByteSize>()
        .map(|size| size.as_u64())
        .map_err(|_| format!("\"{text}\" is not a size: {hint}"))
}

/// Takes a string and nothing else, and says what it would have liked.
struct Text(&'static str);

impl Visitor<'_> for Text {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<String, E> {
        Err(E::invalid_type(Unexpected::Other(&format!("the bare number {number}")), &self))
    }
}

const DURATION: &str = "a duration with its unit, in quotes, such as \"30s\" or \"1h 30m\"";
const SIZE: &str = "a size with its unit, in quotes, such as \"100MB\" or \"64KiB\"";

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Period, D::Error> {
        let text = from.deserialize_str(Text(DURATION))?;
        parse_positive_duration(&text).map(Period).map_err(D::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Delay {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Delay, D::Error> {
        let text = from.deserialize_str(Text(DURATION))?;
        parse_duration(&text).map(Delay).map_err(D::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Bytes, D::Error> {
        let text = from.deserialize_str(Text(SIZE))?;
        match parse_size(&text) {
            Ok(0) => Err(D::Error::custom("this size must be more than zero")),
            Ok(bytes) => Ok(Bytes(bytes)),
            Err(message) => Err(D::Error::custom(message)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_people_write_them() {
        for (text, seconds) in [
            ("30s", 30.0),
            ("250ms", 0.25),
            ("1h 30m", 5400.0),
            ("1h30m", 5400.0),
            ("2d", 172_800.0),
            ("1.5s", 1.5),
            ("0s", 0.0),
            ("1 minute", 60.0),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_secs_f64(seconds)), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused_with_a_hint() {
        for text in ["", "30", "1.5", "-3s", "soon", "3 parsecs", "1mo", "30s 30", "9999999999999999999999y"] {
            let message = parse_duration(text).unwrap_err();
            assert!(message.contains("\"30s\""), "{text}: {message}");
        }
    }

    #[test]
    fn sizes_read_as_people_write_them() {
        for (text, bytes) in
            [("100MB", 100_000_000), ("64KiB", 65_536), ("1.5GB", 1_500_000_000), ("10 GB", 10_000_000_000)]
        {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "100", "-1MB", "1XB", "big"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
