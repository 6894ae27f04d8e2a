//! Mounts that end with their test.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::truth;

/// A mounted file system. Dropped, it is unmounted.
pub struct Mount {
    point: PathBuf,
}

impl Mount {
    /// A file system in memory at `point`; `None`, and said, when we may not mount.
    pub fn tmpfs(point: &Path, size: &str) -> Option<Mount> {
        if !truth::is_root() {
            println!("skipped: needs root");
            return None;
        }
        let mounted = mount(&["-t", "tmpfs", "-o", &format!("size={size},mode=0755"), "tmpfs"], point);
        if !mounted {
            println!("skipped: needs root that may mount");
        }
        mounted.then(|| Mount { point: point.to_owned() })
    }

    /// A btrfs in the file `image`, mounted at `point`; `None`, and said, where there is none.
    pub fn btrfs(image: &Path, point: &Path) -> Option<Mount> {
        if !truth::is_root() {
            println!("skipped: needs root");
            return None;
        }
        File::create(image).unwrap().set_len(256 << 20).unwrap();
        let made = Command::new("mkfs.btrfs").arg("-q").arg(image).output();
        if !made.is_ok_and(|said| said.status.success()) {
            println!("skipped: needs mkfs.btrfs");
            return None;
        }
        let mounted = mount(&["-o", "loop", image.to_str().unwrap()], point);
        if !mounted {
            println!("skipped: needs root that may mount a btrfs");
        }
        mounted.then(|| Mount { point: point.to_owned() })
    }

    /// An ext4 in the file `image`, mounted at `point`, that an error shuts for writing; `None`, and said, where there is none.
    pub fn ext4(image: &Path, point: &Path) -> Option<Mount> {
        if !truth::is_root() {
            println!("skipped: needs root");
            return None;
        }
        File::create(image).unwrap().set_len(16 << 20).unwrap();
        let made = Command::new("mkfs.ext4").arg("-q").arg(image).output();
        if !made.is_ok_and(|said| said.status.success()) {
            println!("skipped: needs mkfs.ext4");
            return None;
        }
        let mounted = mount(&["-o", "loop,errors=remount-ro", image.to_str().unwrap()], point);
        if !mounted {
            println!("skipped: needs root that may mount an ext4");
        }
        mounted.then(|| Mount { point: point.to_owned() })
    }

    /// What an error does to an ext4.
    pub fn abort(&self) {
        assert!(mount(&["-o", "remount,abort"], &self.point));
    }

    /// What is at `source`, at `point` too.
    pub fn bind(source: &Path, point: &Path) -> Mount {
        assert!(mount(&["--bind", source.to_str().unwrap()], point));
        Mount { point: point.to_owned() }
    }

    pub fn read_only(&self, yes: bool) {
        assert!(mount(&["-o", if yes { "remount,ro" } else { "remount,rw" }], &self.point));
    }

    /// Writes until nothing more fits: the file that fills it.
    pub fn fill(&self) -> PathBuf {
        let path = self.point.join("filler");
        let mut file = File::create(&path).unwrap();
        for size in [1 << 16, 1 << 12, 1] {
            let block = vec![0x55_u8; size];
            while file.write_all(&block).is_ok() {}
        }
        path
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.point).status();
    }
}

fn mount(words: &[&str], point: &Path) -> bool {
    Command::new("mount").args(words).arg(point).status().is_ok_and(|status| status.success())
}
