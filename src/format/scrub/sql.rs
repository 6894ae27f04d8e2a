//! The two things that a statement of the schema says about the tree that it made.

/// The words of a statement that stand outside of brackets, quotes and comments; at most as many as a real statement has.
fn words(sql: &str) -> Vec<String> {
    let (mut words, mut word, mut depth) = (Vec::new(), String::new(), 0_u32);
    let mut chars = sql.chars().peekable();
    while let Some(c) = chars.next() {
        if c.is_alphanumeric() || c == '_' || c == '$' {
            word.push(c.to_ascii_lowercase());
            continue;
        }
        if !word.is_empty() {
            let word = std::mem::take(&mut word);
            if depth == 0 {
                words.push(word);
            }
        }
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            '\'' | '"' | '`' | '[' => {
                // A doubled quote ends one string and begins the next: the same for this purpose.
                let end = if c == '[' { ']' } else { c };
                chars.by_ref().find(|c| *c == end);
            }
            '-' if chars.peek() == Some(&'-') => drop(chars.by_ref().find(|c| *c == '\n')),
            '/' if chars.peek() == Some(&'*') => {
                let mut before = ' ';
                chars.next();
                chars.by_ref().find(|c| std::mem::replace(&mut before, *c) == '*' && *c == '/');
            }
            _ => {}
        }
    }
    if depth == 0 && !word.is_empty() {
        words.push(word);
    }
    words
}

/// Of an index: only over some rows of its table.
pub(super) fn is_partial(sql: &str) -> bool {
    words(sql).iter().any(|word| word == "where")
}

/// Of a table: without rowids, so that its tree is an index's.
pub(super) fn is_without_rowid(sql: &str) -> bool {
    words(sql).windows(2).any(|pair| pair == ["without", "rowid"])
}

/// Of a table: a virtual one, which has no tree.
pub(super) fn is_virtual(sql: &str) -> bool {
    words(sql).get(1).is_some_and(|word| word == "virtual")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_words_that_mean_it_count() {
        assert!(
            is_partial("CREATE INDEX i ON t(a) WHERE b>0") && is_partial("CREATE INDEX [x]ON t(a)/*where*/WHERE(b)")
        );
        for sql in [
            "CREATE INDEX \"a where b\" ON t(a)",
            "CREATE INDEX i ON t(f(a,'where'))",
            "CREATE INDEX i ON t(a) -- where",
        ] {
            assert!(!is_partial(sql), "{sql}");
        }
        assert!(is_without_rowid("CREATE TABLE t(a PRIMARY KEY) STRICT, Without\n ROWID"));
        assert!(!is_without_rowid("CREATE TABLE 'without rowid'(a, without rowid)"));
        assert!(is_virtual("CREATE VIRTUAL TABLE f USING fts5(a)") && !is_virtual("CREATE TABLE virtual(a)"));
        assert!(is_partial("create index i on t(\"it\"\"s\") where 1"));
    }
}
