//! Which files are guardiand's own.

/// What the name of every temporary file of guardiand begins with.
pub const OUR_PREFIX: &str = ".guardiand-";

/// Whether a file of this name is a temporary one of ours, which no glob matches and no watch reports.
///
/// SQLite's sidecars of such a file (`.guardiand-1.db-wal`) begin the same way, and so are ours too.
pub fn is_ours(file_name: impl AsRef<[u8]>) -> bool {
    file_name.as_ref().starts_with(OUR_PREFIX.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_begin_with_our_prefix_are_ours() {
        for (name, ours) in [
            (".guardiand-1.tmp", true),
            (".guardiand-1.db-wal", true),
            ("guardiand-1.tmp", false),
            ("app.db", false),
            ("app.guardiand-1", false),
            (".guardian", false),
            ("", false),
        ] {
            assert_eq!(is_ours(name), ours, "{name}");
        }
    }
}
