//! The fields of a line of the text log: `name=value`, apart by spaces, a value in quotes where it could be taken for more than one.
//!
//! tracing-subscriber quotes what is given as a text and writes what is given by its `Display` as it is, so that a line break in the name of
//! a file began a line of its own, and a space in it another field.

use std::fmt;

use tracing::field::{Field, Visit};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::Writer;

use crate::model::{is_unseen, shown};

/// Writes the fields of a text line.
#[derive(Debug)]
pub(super) struct TextFields;

impl<'writer> FormatFields<'writer> for TextFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut line = Line { writer, is_empty: true, result: Ok(()) };
        fields.record(&mut line);
        line.result
    }
}

struct Line<'writer> {
    writer: Writer<'writer>,
    is_empty: bool,
    result: fmt::Result,
}

impl Line<'_> {
    fn put(&mut self, field: &Field, value: &str) {
        if self.result.is_ok() {
            self.result = self.write(field.name(), value);
        }
    }

    fn write(&mut self, name: &str, value: &str) -> fmt::Result {
        if !std::mem::replace(&mut self.is_empty, false) {
            self.writer.write_char(' ')?;
        }
        if name == "message" {
            return self.writer.write_str(&shown(value));
        }
        match self.writer.has_ansi_escapes() {
            true => write!(self.writer, "\x1b[3m{name}\x1b[0m\x1b[2m=\x1b[0m{value}"),
            false => write!(self.writer, "{name}={value}"),
        }
    }
}

impl Visit for Line<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.put(field, value),
            _ => self.put(field, &quoted(value)),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let value = format!("{value:?}");
        let is_one_word =
            !value.is_empty() && !value.contains(|c: char| c.is_whitespace() || is_unseen(c) || matches!(c, '"' | '='));
        match field.name() {
            "message" => self.put(field, &value),
            _ if is_one_word => self.put(field, &value),
            _ => self.put(field, &quoted(&value)),
        }
    }
}

/// In quotes: what is between them is never taken for their end.
fn quoted(value: &str) -> String {
    format!("\"{}\"", shown(&value.replace('\\', "\\\\").replace('"', "\\\"")))
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    /// What was written.
    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_stays_a_line_and_a_field_a_field() {
        let written = Written::default();
        let to = written.clone();
        let layer = tracing_subscriber::fmt::layer().fmt_fields(TextFields).with_writer(move || to.clone());
        let layer = layer.without_time().with_level(false).with_target(false).with_ansi(false);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            let (name, plain) = ("a\n\x1b[2J\u{202e}\" outcome=ok", "/srv/app.db");
            tracing::warn!(file = %name, plain = %plain, target = name, seconds = 0.5, count = Some(2), nothing = %"", "told of {name}");
        });
        let escaped = r#"a\n\x1b[2J\u{202e}"#;
        let said = format!(
            "told of {escaped}\" outcome=ok file=\"{escaped}\\\" outcome=ok\" plain=/srv/app.db target=\"{escaped}\\\" outcome=ok\" \
             seconds=0.5 count=2 nothing=\"\"\n"
        );
        assert_eq!(String::from_utf8(written.0.lock().unwrap().clone()).unwrap(), said);
    }
}
