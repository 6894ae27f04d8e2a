//! Which mount a file is on, and what may be done there.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::HostError;
use super::facts::{Device, FileFacts};
use super::procfs;

/// Where the bytes of a file system live, as far as locks and holders are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Locality {
    /// In this kernel: locks and holders can all be seen.
    Local,
    /// On another machine, whose programs cannot be seen.
    Remote,
    /// In a program (FUSE), whose semantics are its own.
    Fuse,
    /// An overlay: a program that uses the upper folder directly locks another inode (SQLITE.md, rule 21).
    Overlay,
}

/// One line of mountinfo (`proc_pid_mountinfo(5)`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// The mount's number, as `statx` gives it.
    pub id: u64,
    /// The file system's device, as in `/proc/locks` and `/proc/PID/maps`; `st_dev` differs on btrfs.
    pub device: Device,
    /// Where it is mounted, as this process sees it.
    pub point: PathBuf,
    /// The file system's type: `ext4`, `fuse.sshfs`.
    pub fs_type: String,
    /// What is mounted: a device, a share.
    pub source: String,
    /// Whether this mount is read-only.
    pub mount_read_only: bool,
    /// Whether the file system as a whole is read-only, as after an error with `errors=remount-ro`.
    pub super_read_only: bool,
    /// The file system says itself that it was shut after an error: no remount opens it again.
    pub shut: bool,
}

impl Mount {
    /// Whether nothing can be written here.
    pub fn read_only(&self) -> bool {
        self.mount_read_only || self.super_read_only
    }

    /// How to open a file system again that was shut for writing after an error: remounting does not; `None` where nothing speaks of
    /// one. Before Linux 6.14 ext4 looks as if it had been mounted read-only, and only its count of errors tells
    /// (`Documentation/ABI/testing/sysfs-fs-ext4`).
    pub fn repair(&self) -> Option<String> {
        let has_errors = || self.fs_type == "ext4" && self.super_read_only && self.ext4_errors().is_some_and(|n| n > 0);
        let (point, source) = (self.point.display(), &self.source);
        (self.shut || has_errors()).then(|| format!("`umount {point}`, `fsck {source}`, and mount it again"))
    }

    fn ext4_errors(&self) -> Option<u64> {
        // /sys/dev/block/7:0 leads to …/block/loop0.
        let device = std::fs::read_link(format!("/sys/dev/block/{}", self.device)).ok()?;
        let count = Path::new("/sys/fs/ext4").join(device.file_name()?).join("errors_count");
        procfs::text(&count).ok()?.trim().parse().ok()
    }

    /// Where its bytes live.
    pub fn locality(&self) -> Locality {
        const REMOTE: [&str; 19] = [
            "nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "afs", "coda", "lustre", "gpfs", "beegfs",
            "orangefs", "gfs2", "ocfs2", "virtiofs", "vboxsf", "ncpfs", "acfs",
        ];
        let name = self.fs_type.as_str();
        if REMOTE.contains(&name) {
            Locality::Remote
        } else if name == "fuse" || name == "fuseblk" || name.starts_with("fuse.") {
            Locality::Fuse
        } else if name == "overlay" || name == "aufs" {
            Locality::Overlay
        } else {
            Locality::Local
        }
    }

    /// Whether all locks and holders of its files can be seen from here.
    pub fn is_local(&self) -> bool {
        self.locality() == Locality::Local
    }

    /// Whether its files do not outlive a boot.
    pub fn is_volatile(&self) -> bool {
        matches!(self.fs_type.as_str(), "tmpfs" | "ramfs" | "devtmpfs")
    }

    /// Why a file here is only observed, never healed; `None` where healing is possible.
    pub fn observe_only(&self) -> Option<String> {
        let (fs, point) = (&self.fs_type, self.point.display());
        match self.locality() {
            Locality::Local => None,
            Locality::Remote => Some(format!("{point} is {fs}: programs on other machines cannot be seen from here")),
            Locality::Fuse => Some(format!("{point} is {fs}: a program answers for its locks, not the kernel")),
            Locality::Overlay => {
                Some(format!("{point} is {fs}: programs that use its upper folder directly cannot be seen through it"))
            }
        }
    }
}

/// All mounts of this process's namespace at one instant; read once per sweep.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mounts(Vec<Mount>);

impl Mounts {
    /// Reads `/proc/self/mountinfo`.
    ///
    /// # Errors
    /// [`HostError::ReadProc`], or [`HostError::ParseProc`] when not one line could be understood.
    pub fn read() -> Result<Mounts, HostError> {
        let path = Path::new("/proc/self/mountinfo");
        let bytes = procfs::bytes(path)?;
        let mounts = Mounts::parse(&bytes);
        if mounts.0.is_empty() {
            let line = String::from_utf8_lossy(&bytes).lines().next().unwrap_or_default().to_owned();
            return Err(HostError::ParseProc { what: "a mount", path: path.into(), line });
        }
        Ok(mounts)
    }

    /// Parses the text of a mountinfo file; a line that cannot be understood is left out.
    pub fn parse(text: &[u8]) -> Mounts {
        Mounts(text.split(|byte| *byte == b'\n').filter_map(parse_line).collect())
    }

    /// Every mount, in the kernel's order.
    pub fn all(&self) -> &[Mount] {
        &self.0
    }

    /// The mount that an absolute path *as written* is under: no link is followed, nothing is asked of a disk.
    pub fn of(&self, path: &Path) -> Option<&Mount> {
        // A later mount on the same point covers an earlier one; `max_by_key` keeps the last of equals.
        self.0
            .iter()
            .filter(|mount| path.starts_with(&mount.point))
            .max_by_key(|mount| mount.point.components().count())
    }

    /// The mount of a file that was looked at; exact where the kernel gave the mount's id.
    pub fn of_file(&self, facts: &FileFacts, path: &Path) -> Option<&Mount> {
        let by_id = facts.mount_id.and_then(|id| self.0.iter().find(|mount| mount.id == id));
        by_id.or_else(|| self.of(path))
    }

    /// Whether it is only for this process that a path cannot be written, as behind `ProtectSystem=` of its unit: the
    /// first process's namespace, which is the programs', has the same file system there read-write.
    pub fn walled_off(&self, path: &Path) -> bool {
        let Some(here) = self.of(path).filter(|here| here.mount_read_only && !here.super_read_only) else {
            return false;
        };
        let Ok(text) = procfs::bytes(Path::new("/proc/1/mountinfo")) else { return false };
        let theirs = Mounts::parse(&text);
        theirs.of(path).is_some_and(|there| there.device == here.device && !there.read_only())
    }

    /// The first mount of a device.
    pub fn of_device(&self, device: Device) -> Option<&Mount> {
        self.0.iter().find(|mount| mount.device == device)
    }

    /// The device under which `/proc/locks` and `/proc/PID/maps` list this file: mountinfo's, not `st_dev`.
    pub fn lock_device(&self, facts: &FileFacts, path: &Path) -> Device {
        self.of_file(facts, path).map_or(facts.id.dev, |mount| mount.device)
    }
}

fn parse_line(line: &[u8]) -> Option<Mount> {
    // 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
    let mut fields = line.split(|byte| *byte == b' ');
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let _parent = fields.next()?;
    let (major, minor) = std::str::from_utf8(fields.next()?).ok()?.split_once(':')?;
    let _root = fields.next()?;
    let point = PathBuf::from(OsString::from_vec(unescape(fields.next()?)));
    let options = fields.next()?;
    let mut fields = fields.skip_while(|field| *field != b"-").skip(1);
    let fs_type = String::from_utf8_lossy(&unescape(fields.next()?)).into_owned();
    let source = String::from_utf8_lossy(&unescape(fields.next()?)).into_owned();
    let super_options = fields.next().unwrap_or_default();
    // Since Linux 6.14 ext4 leaves `rw` there after an error with `errors=remount-ro`, and says `emergency_ro`.
    let shut = [&b"emergency_ro"[..], b"shutdown"].into_iter().any(|option| has_option(super_options, option));
    Some(Mount {
        id,
        device: Device { major: major.parse().ok()?, minor: minor.parse().ok()? },
        point,
        fs_type,
        source,
        mount_read_only: has_option(options, b"ro"),
        super_read_only: shut || has_option(super_options, b"ro"),
        shut,
    })
}

fn has_option(options: &[u8], wanted: &[u8]) -> bool {
    options.split(|byte| *byte == b',').any(|option| option == wanted)
}

/// Undoes the `\040` escapes that mountinfo writes for blanks, tabs, newlines and backslashes.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|digits| digits.iter().all(|digit| (b'0'..=b'7').contains(digit)));
        match octal {
            Some(digits) if first == b'\\' => {
                let value = digits.iter().fold(0_u32, |sum, digit| sum * 8 + u32::from(digit - b'0'));
                out.push(u8::try_from(value).unwrap_or(b'?'));
                rest = tail.get(3..).unwrap_or_default();
            }
            _ => {
                out.push(first);
                rest = tail;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &[u8] = b"\
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
30 27 0:31 / /srv rw shared:1 master:2 - btrfs /dev/vdb rw,space_cache
31 27 0:31 /sub /srv/sub ro,noatime - btrfs /dev/vdb rw
40 27 0:50 / /mnt/with\\040blank rw - nfs4 server:/x rw,vers=4.2
41 27 0:51 / /run rw - tmpfs tmpfs rw
42 27 0:52 / /srv rw - fuse.sshfs me@x: rw
43 27 0:53 / /merged rw - overlay overlay ro,lowerdir=/a
43 27 0:54 / /aborted rw - ext4 /dev/vdd rw,abort,errors=remount-ro,emergency_ro
garbage
44 27 x:y / /broken rw - ext4 /dev/vdc rw
";

    #[test]
    fn the_deepest_and_latest_mount_of_a_path_wins() {
        let mounts = Mounts::parse(SAMPLE);
        for (path, id) in [
            ("/etc/passwd", 27),
            ("/srv/app.db", 42),
            ("/srv/sub/app.db", 31),
            ("/srvx/app.db", 27),
            ("/mnt/with blank/a", 40),
            ("/run/a", 41),
            ("/broken/a", 27),
        ] {
            assert_eq!(mounts.of(Path::new(path)).map(|mount| mount.id), Some(id), "{path}");
        }
        assert_eq!(mounts.of(Path::new("relative")), None);
    }

    #[test]
    fn each_kind_of_file_system_says_what_may_be_done_there() {
        let mounts = Mounts::parse(SAMPLE);
        let of = |path: &str| mounts.of(Path::new(path)).cloned().unwrap();
        assert!(of("/x").is_local() && !of("/x").read_only() && of("/x").observe_only().is_none());
        assert!(of("/srv/sub/x").read_only() && of("/srv/sub/x").mount_read_only);
        assert_eq!(of("/mnt/with blank/x").locality(), Locality::Remote);
        assert!(of("/mnt/with blank/x").observe_only().unwrap().contains("nfs4"));
        assert_eq!(of("/srv/x").locality(), Locality::Fuse);
        assert_eq!(of("/merged/x").locality(), Locality::Overlay);
        assert!(of("/aborted/x").super_read_only && of("/aborted/x").read_only());
        assert_eq!(
            of("/aborted/x").repair().as_deref(),
            Some("`umount /aborted`, `fsck /dev/vdd`, and mount it again")
        );
        assert_eq!(of("/merged/x").repair(), None, "it was mounted so");
        assert!(of("/merged/x").super_read_only && of("/merged/x").read_only());
        assert!(of("/run/x").is_volatile() && !of("/x").is_volatile());
    }

    #[test]
    fn escapes_are_undone_byte_by_byte() {
        for (escaped, plain) in [
            (&b"a\\040b"[..], &b"a b"[..]),
            (b"\\134040", b"\\040"),
            (b"tab\\011", b"tab\t"),
            (b"end\\", b"end\\"),
            (b"\\08", b"\\08"),
            (b"\xff\\012", b"\xff\n"),
        ] {
            assert_eq!(unescape(escaped), plain);
        }
    }

    #[test]
    fn a_real_file_is_found_by_its_mount_id() {
        let dir = tempfile::tempdir().unwrap();
        let mounts = Mounts::read().unwrap();
        let facts = FileFacts::of_path(dir.path(), false).unwrap();
        let path = dir.path().canonicalize().unwrap();
        let by_file = mounts.of_file(&facts, Path::new("/")).unwrap();
        assert_eq!(Some(by_file.id), mounts.of(&path).map(|mount| mount.id));
        assert_eq!(mounts.lock_device(&facts, &path), by_file.device);
    }
}
