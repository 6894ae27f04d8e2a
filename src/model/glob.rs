//! Matching names and paths against a pattern, and what its wildcards matched. No file is looked at.

use std::collections::BTreeSet;

/// True when `component` has a wildcard: `*`, `?` or `[`.
pub fn is_wild(component: &str) -> bool {
    component.contains(['*', '?', '['])
}

/// What the wildcards of `pattern` matched in `name`, each apart, in order; `None` when it does not match.
///
/// `*` is any run of characters, as short as possible; `?` is one; `[a-z]` is one of these, `[!a-z]` one of the others. As in
/// a shell, a wildcard in front does not match a leading dot: hidden files are asked for by name.
pub fn captures(pattern: &str, name: &str) -> Option<Vec<String>> {
    if name.starts_with('.') && !pattern.starts_with('.') {
        return None;
    }
    let parts = parse(pattern);
    let name: Vec<char> = name.chars().collect();
    let mut found = Vec::new();
    matches(&parts, &name, &mut found).then_some(found)
}

/// The components of an absolute pattern or path; `None` for another.
pub fn components(absolute: &str) -> Option<Vec<&str>> {
    let relative = absolute.strip_prefix('/')?;
    Some(relative.split('/').filter(|one| !one.is_empty() && *one != ".").collect())
}

/// With one `**` its empty match can go unsaid; with two it tells which of them matched.
pub fn keeps_empty(components: &[&str]) -> bool {
    components.iter().filter(|one| **one == "**").count() > 1
}

/// What the wildcards of `pattern` matched in `path`, joined by `/`: the name that listing the pattern gives to a file there.
/// `None` when the path does not match.
pub fn matched(pattern: &str, path: &str) -> Option<String> {
    let (pattern, path) = (components(pattern)?, components(path)?);
    let mut found = BTreeSet::new();
    align(&pattern, &path, keeps_empty(&pattern), &mut Vec::new(), &mut found);
    found.pop_first()
}

fn align(pattern: &[&str], path: &[&str], keep_empty: bool, captured: &mut Vec<String>, found: &mut BTreeSet<String>) {
    let before = captured.len();
    match (pattern, path) {
        ([], []) => drop(found.insert(captured.join("/"))),
        (["**", rest @ ..], _) => {
            // A `**` at the end means every file beneath.
            let rest = if rest.is_empty() { &["*"] } else { rest };
            for depth in 0..path.len() {
                let (folders, left) = path.split_at(depth);
                if folders.last().is_some_and(|hidden| hidden.starts_with('.')) {
                    break;
                }
                captured.extend((depth > 0 || keep_empty).then(|| folders.join("/")));
                align(rest, left, keep_empty, captured, found);
                captured.truncate(before);
            }
        }
        ([literal, rest @ ..], [name, left @ ..]) if !is_wild(literal) => {
            if literal == name {
                align(rest, left, keep_empty, captured, found);
            }
        }
        ([wild, rest @ ..], [name, left @ ..]) => {
            if let Some(found_here) = captures(wild, name) {
                captured.extend(found_here);
                align(rest, left, keep_empty, captured, found);
                captured.truncate(before);
            }
        }
        ([], _) | (_, []) => {}
    }
}

enum Part {
    Literal(char),
    AnyRun,
    AnyOne,
    Class { ranges: Vec<(char, char)>, negated: bool },
}

impl Part {
    fn takes(&self, c: char) -> bool {
        match self {
            Part::Literal(literal) => *literal == c,
            Part::AnyRun | Part::AnyOne => true,
            Part::Class { ranges, negated } => ranges.iter().any(|(from, to)| (*from..=*to).contains(&c)) != *negated,
        }
    }
}

fn parse(pattern: &str) -> Vec<Part> {
    let chars: Vec<char> = pattern.chars().collect();
    let mut parts: Vec<Part> = Vec::new();
    let mut at = 0;
    while let Some(&c) = chars.get(at) {
        at += 1;
        match c {
            // Two stars in a row are one: only a component that is `**` alone spans folders.
            '*' if matches!(parts.last(), Some(Part::AnyRun)) => {}
            '*' => parts.push(Part::AnyRun),
            '?' => parts.push(Part::AnyOne),
            '[' => match class(&chars[at..]) {
                Some((class, length)) => {
                    parts.push(class);
                    at += length;
                }
                // Without its end it is a bracket like any other letter.
                None => parts.push(Part::Literal('[')),
            },
            literal => parts.push(Part::Literal(literal)),
        }
    }
    parts
}

/// The class that begins after its `[`, and how many characters it takes with its `]`.
fn class(chars: &[char]) -> Option<(Part, usize)> {
    let negated = matches!(chars.first(), Some('!' | '^'));
    let first = usize::from(negated);
    // A `]` in front is a member: `[]]`.
    let end = (first + 1..chars.len()).find(|&at| chars[at] == ']')?;
    let members = &chars[first..end];
    let (mut ranges, mut at) = (Vec::new(), 0);
    while at < members.len() {
        match members.get(at..at + 3) {
            Some(&[from, '-', to]) => {
                ranges.push((from, to));
                at += 3;
            }
            _ => {
                ranges.push((members[at], members[at]));
                at += 1;
            }
        }
    }
    Some((Part::Class { ranges, negated }, end + 1))
}

/// Greedy from the left with one step back to the last star: linear in pattern times name, whatever the pattern.
fn matches(parts: &[Part], name: &[char], found: &mut Vec<String>) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize, usize, usize)> = None;
    loop {
        match parts.get(p) {
            Some(Part::AnyRun) => {
                star = Some((p, n, n, found.len()));
                found.push(String::new());
                p += 1;
                continue;
            }
            Some(part) if n < name.len() && part.takes(name[n]) => {
                if !matches!(part, Part::Literal(_)) {
                    found.push(name[n].to_string());
                }
                p += 1;
                n += 1;
                continue;
            }
            None if n == name.len() => return true,
            _ => {}
        }
        let Some((at, from, to, captured)) = star else { return false };
        if to >= name.len() {
            return false;
        }
        found.truncate(captured);
        found.push(name[from..=to].iter().collect());
        star = Some((at, from, to + 1, captured));
        p = at + 1;
        n = to + 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_capture_what_they_matched() {
        let table: [(&str, &str, Option<&[&str]>); 16] = [
            ("app.db", "app.db", Some(&[])),
            ("*.db", "app.db", Some(&["app"])),
            ("*.db", "app.db.bak", None),
            ("db*.sqlite", "db.sqlite", Some(&[""])),
            ("*-*.db", "a-b-c.db", Some(&["a", "b-c"])),
            ("shard-??.db", "shard-07.db", Some(&["0", "7"])),
            ("shard-??.db", "shard-7.db", None),
            ("[a-c]x", "bx", Some(&["b"])),
            ("[!a-c]x", "bx", None),
            ("[!a-c]x", "dx", Some(&["d"])),
            ("[]]x", "]x", Some(&["]"])),
            ("[x", "[x", Some(&[])),
            ("*", ".hidden", None),
            (".*", ".hidden", Some(&["hidden"])),
            ("*ab", "aab", Some(&["a"])),
            ("é?", "éß", Some(&["ß"])),
        ];
        for (pattern, name, expected) in table {
            let expected = expected.map(|found| found.iter().map(|&one| one.to_owned()).collect::<Vec<_>>());
            assert_eq!(captures(pattern, name), expected, "{pattern} on {name}");
        }
    }

    #[test]
    fn a_path_is_named_as_listing_its_pattern_names_it() {
        for (pattern, path, expected) in [
            ("/g/*.db", "/g/x.db", Some("x")),
            ("/g/*.db", "/h/x.db", None),
            ("/g/*.db", "/g/x.db/y", None),
            ("/g/*.db", "/g", None),
            ("/g//./*.db", "/g/x.db", Some("x")),
            ("/*/db-*.sqlite", "/b/db-2.sqlite", Some("b/2")),
            ("/**/db-*.sqlite", "/c/d/db-3.sqlite", Some("c/d/3")),
            ("/**/db-*.sqlite", "/db-3.sqlite", Some("3")),
            ("/**/db-*.sqlite", "/c/.d/db-3.sqlite", None),
            ("/b/**", "/b/c/x", Some("c/x")),
            ("/**/m/**/*.db", "/m/m/x.db", Some("/m/x")),
            ("/g/app.db", "/g/app.db", Some("")),
            ("g/*.db", "/g/x.db", None),
        ] {
            assert_eq!(matched(pattern, path).as_deref(), expected, "{pattern} on {path}");
        }
    }

    #[test]
    fn a_hostile_pattern_costs_no_more_than_pattern_times_name() {
        let pattern = "*a".repeat(64);
        let name = "a".repeat(255) + "b";
        assert_eq!(captures(&pattern, &name), None);
    }
}
