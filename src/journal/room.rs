//! What a journal that cannot be written needs, for whoever is called.

use std::path::Path;

use crate::host::Space;

/// Less than this, in bytes, and an entry with its folder may not fit.
const SCARCE: u64 = 1 << 20;

/// The room for the state directory `root`, and what to do, in words.
pub(super) fn room(root: &Path) -> String {
    match Space::at(root) {
        Ok(space) => words(&root.display().to_string(), space),
        Err(error) => error.to_string(),
    }
}

fn words(root: &str, space: Space) -> String {
    let free = space.free_bytes;
    match (space.read_only, space.free_inodes) {
        (true, _) => format!("the file system of {root} is mounted read-only: mount it so that it can be written"),
        (_, Some(0)) => format!("the file system of {root} has no inode free: remove files there"),
        _ if free < SCARCE => format!("the file system of {root} has {free} bytes free: make room there"),
        _ => format!("the file system of {root} has {free} bytes free: see why guardiand cannot write there"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_is_missing_and_what_to_do() {
        let roomy = Space {
            free_bytes: 1 << 30,
            total_bytes: 1 << 32,
            free_inodes: Some(7),
            read_only: false,
            block_bytes: 4096,
        };
        for (space, say) in [
            (Space { free_bytes: 0, ..roomy }, "/s has 0 bytes free: make room"),
            (Space { free_inodes: Some(0), ..roomy }, "no inode free"),
            (Space { read_only: true, free_bytes: 0, ..roomy }, "read-only"),
            (roomy, "see why"),
        ] {
            assert!(words("/s", space).contains(say), "{}", words("/s", space));
        }
    }
}
