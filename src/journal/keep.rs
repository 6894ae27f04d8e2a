//! Small documents that must outlive this process and cannot be rebuilt from the logs: what a person said of targets, what
//! people were told. Each is replaced as a whole, so that a crash leaves the old or the new one.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use serde_json::Value;

use super::error::JournalError;
use super::log::sync_folder;

/// None of them comes near this; a file that does was not written by us.
const DOCUMENT_BYTES_MAX: u64 = 16 << 20;

/// Writes `document` as `<root>/<name>`; durable when this returns.
pub(super) fn keep(root: &Path, name: &str, document: &Value) -> Result<(), JournalError> {
    let path = root.join(name);
    let aside = root.join(format!("{name}.new"));
    let failed = |source| JournalError::Keep { path: path.clone(), source };
    match std::fs::remove_file(&aside) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let bytes = serde_json::to_vec_pretty(document).map_err(JournalError::Encode)?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside).map_err(failed)?;
    file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(failed)?;
    std::fs::rename(&aside, &path).map_err(failed)?;
    sync_folder(root)
}

/// What was kept as `name`; `None` when nothing was.
pub(super) fn kept(root: &Path, name: &str) -> Result<Option<Value>, JournalError> {
    let path = root.join(name);
    let unreadable = |reason: String| JournalError::Kept { path: path.clone(), reason };
    // A pipe would keep us waiting for who writes to it, for ever.
    let at_once = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let opened = OpenOptions::new().read(true).custom_flags(at_once).open(&path);
    let file = match opened.and_then(|file| Ok((file.metadata()?.is_file(), file))) {
        Ok((true, file)) => file,
        Ok((false, _)) => return Err(unreadable("it is not a regular file".to_owned())),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error.to_string())),
    };
    let mut bytes = Vec::new();
    file.take(DOCUMENT_BYTES_MAX).read_to_end(&mut bytes).map_err(|error| unreadable(error.to_string()))?;
    serde_json::from_slice(&bytes).map(Some).map_err(|error| unreadable(error.to_string()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_document_is_replaced_as_a_whole_and_a_damaged_one_is_no_empty_one() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(kept(root.path(), "pauses.json").unwrap(), None);
        for document in [json!({ "app": 1 }), json!({})] {
            keep(root.path(), "pauses.json", &document).unwrap();
            assert_eq!(kept(root.path(), "pauses.json").unwrap(), Some(document));
        }
        // A crash between the two leaves this behind, and is no reason not to write again.
        std::fs::write(root.path().join("pauses.json.new"), "{").unwrap();
        keep(root.path(), "pauses.json", &json!({ "b": 2 })).unwrap();
        assert!(!root.path().join("pauses.json.new").exists());
        std::fs::write(root.path().join("pauses.json"), "{ \"b\"").unwrap();
        assert!(matches!(kept(root.path(), "pauses.json"), Err(JournalError::Kept { .. })));
        let pipe = root.path().join("told.json");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        assert!(matches!(kept(root.path(), "told.json"), Err(JournalError::Kept { .. })));
    }
}
