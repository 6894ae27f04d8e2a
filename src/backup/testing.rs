//! Backups as values, for the tests of this room.

use std::path::PathBuf;

use jiff::Timestamp;

use crate::job::{BackupEntry, BackupManifest, Owner};

pub(super) fn entry(name: &str, taken_at: Timestamp, size: u64) -> BackupEntry {
    let manifest = BackupManifest {
        version: 1,
        target: "app".into(),
        source: PathBuf::from("/srv/app.db"),
        number: 0,
        taken_at,
        duration_seconds: 0.1,
        blocked_seconds: 0.0,
        size,
        blake3: String::new(),
        tables: Vec::new(),
        schema: String::new(),
        schema_cookie: Some(1),
        journal_mode: "wal".into(),
        page_size: 4096,
        source_fingerprint: None,
        wal: None,
        owner: Owner { uid: 0, gid: 0, mode: 0o600 },
        attributes: None,
        verified_at: taken_at,
        sqlite_version: "3".into(),
        damaged: None,
    };
    BackupEntry { file: PathBuf::from(format!("/b/{name}.db")), manifest }
}
