//! Text of others, as a terminal, a log or a page may show it. The name of a file, the words of another program and the content of a
//! configuration can hold any character: one that moves the cursor, ends a line or turns the direction of writing would forge what
//! guardiand says.

use std::borrow::Cow;
use std::fmt;

/// `text` on one line: what ends a line or cannot be seen is written out, as `\n`, `\x1b`, `\u{202e}`.
pub fn shown(text: &str) -> Cow<'_, str> {
    written_out(text, is_unseen, write_for_people)
}

/// The same for a text of several lines, each of which went through [`shown`] or is our own.
pub fn shown_lines(text: &str) -> Cow<'_, str> {
    written_out(text, |c| c != '\n' && is_unseen(c), write_for_people)
}

/// A JSON document that says the same without a character that a terminal would obey: serde_json writes out those below U+0020 alone.
/// Between its tokens a document has none of them but the ends of its lines.
pub fn shown_json(document: &str) -> Cow<'_, str> {
    let write = |out: &mut String, c: char| {
        for unit in c.encode_utf16(&mut [0; 2]) {
            out.push_str(&format!("\\u{unit:04x}"));
        }
    };
    written_out(document, |c| c != '\n' && is_unseen(c), write)
}

/// A word as a shell takes it: a person copies the command that it stands in, and a name of others' may hold what a shell obeys.
pub fn for_shell(word: impl fmt::Display) -> String {
    let word = word.to_string();
    let is_plain = |c: char| c.is_alphanumeric() || "_-./:@%+=,".contains(c);
    match word.chars().all(is_plain) && !word.is_empty() {
        true => word,
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

/// Cannot be seen, or changes how what follows is seen: the controls (C0, DEL, C1), the ends of lines and paragraphs, and of Unicode's
/// formats (Cf) those that have no width, or turn the direction.
pub fn is_unseen(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

fn written_out(text: &str, is_written_out: impl Fn(char) -> bool, write: impl Fn(&mut String, char)) -> Cow<'_, str> {
    if !text.contains(&is_written_out) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_written_out(c) { write(&mut out, c) } else { out.push(c) }
    }
    Cow::Owned(out)
}

fn write_for_people(out: &mut String, c: char) {
    match c {
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        '\0'..='\x7f' => out.push_str(&format!("\\x{:02x}", u32::from(c))),
        c => out.push_str(&format!("\\u{{{:x}}}", u32::from(c))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_takes_a_word_for_one_word() {
        for (word, as_one) in [
            ("app", "app"),
            ("/srv/a-b_c/1.db", "/srv/a-b_c/1.db"),
            ("tenants/größe", "tenants/größe"),
            ("Shop 2", "'Shop 2'"),
            ("a;reboot", "'a;reboot'"),
            ("it's $HOME", r"'it'\''s $HOME'"),
            ("~root", "'~root'"),
            ("", "''"),
        ] {
            assert_eq!(for_shell(word), as_one, "{word:?}");
        }
    }

    #[test]
    fn what_cannot_be_seen_is_written_out_and_all_else_stays() {
        for (text, line, lines) in [
            ("app/é ß 日本", "app/é ß 日本", "app/é ß 日本"),
            ("a\nb\tc\r", "a\\nb\\tc\\r", "a\nb\\tc\\r"),
            ("\x1b[2J\x07\x7f\u{9b}", "\\x1b[2J\\x07\\x7f\\u{9b}", "\\x1b[2J\\x07\\x7f\\u{9b}"),
            (
                "bd.\u{202e}x\u{2066}\u{200b}\u{2028}",
                "bd.\\u{202e}x\\u{2066}\\u{200b}\\u{2028}",
                "bd.\\u{202e}x\\u{2066}\\u{200b}\\u{2028}",
            ),
        ] {
            assert_eq!((shown(text).as_ref(), shown_lines(text).as_ref()), (line, lines));
        }
    }

    #[test]
    fn a_json_document_says_the_same() {
        let names = ["a\n\x1b\x7f\u{9b}\u{202e}\u{e0041}\"\\é"];
        let document = serde_json::to_string_pretty(&names).unwrap();
        let shown = shown_json(&document);
        assert_eq!(serde_json::from_str::<[String; 1]>(&shown).unwrap(), names);
        assert!(!shown.contains(|c| c != '\n' && is_unseen(c)), "{shown}");
    }
}
