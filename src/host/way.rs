//! The way to a folder: links on it are followed only where nobody can have planted them.
//!
//! A program's user owns the folder that its database is in, and can put any link or further name there. A privileged guardian
//! that followed it would read, write or give away somebody else's files. So:
//!
//! | on the way | is followed when |
//! | --- | --- |
//! | a link of root's, or our own | always: who could plant that needs nobody's help |
//! | a link of another user's | it leads to a folder of that same user's |
//! | a file with several names | nobody but its owner, root or we could have given it one there |

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, mkdirat, openat, openat2, readlinkat};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::error::{HostError, at};
use super::facts::{FileFacts, FileKind};

/// As many links as the kernel follows in one path (`path_resolution(7)`).
const LINKS_MAX: u32 = 40;

/// What to do about a link in the last component.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Last {
    /// As about any other.
    Follow,
    /// Refuse it.
    Refuse,
}

/// Opens the folder at `path` (`O_PATH`). `make`: folders that are missing are made, with this mode.
pub(super) fn open(path: &Path, last: Last, make: Option<Mode>) -> Result<OwnedFd, HostError> {
    // Nearly always there is no link at all on the way, and the kernel tells in one call.
    match openat2(CWD, path, flags(), Mode::empty(), ResolveFlags::NO_SYMLINKS) {
        Ok(folder) => return Ok(folder),
        Err(Errno::LOOP | Errno::NOSYS | Errno::PERM | Errno::AGAIN) => {}
        Err(Errno::NOTDIR) if last == Last::Follow => {}
        Err(Errno::NOENT) if make.is_some() => {}
        Err(errno) => return Err(at(path, HostError::open_folder)(errno)),
    }
    Walk::begin(path)?.finish(last, make)
}

/// Why a file with several names is not to be touched, if so: who may make names in its folder can have given it this one to
/// lead us to a file that is not theirs. `fs.protected_hardlinks` forbids that, where it is on.
pub fn planted_name(file: &FileFacts, folder: &FileFacts) -> Option<String> {
    planted(file, folder, geteuid().as_raw())
}

/// What the paths of [`super::Folder::through`] begin with.
pub(super) const THROUGH: &str = "/proc/self/fd";

/// Whether `file`, opened at a path of [`super::Folder::through`], has a name in that folder that may be planted.
pub fn is_planted_at(path: &Path, file: BorrowedFd<'_>) -> bool {
    let Some(folder) = path.parent().filter(|folder| folder.parent() == Some(Path::new(THROUGH))) else { return false };
    match (FileFacts::of_fd(file), FileFacts::of_path(folder, true)) {
        (Ok(file), Ok(folder)) => planted_name(&file, &folder).is_some(),
        // What cannot be told is not trusted.
        _ => true,
    }
}

fn planted(file: &FileFacts, folder: &FileFacts, us: u32) -> Option<String> {
    if file.kind != FileKind::Regular || file.nlink < 2 {
        return None;
    }
    let trusted = |uid: u32| uid == 0 || uid == us;
    let owner = file.uid != folder.uid && !trusted(folder.uid);
    let everybody = folder.mode & 0o002 != 0;
    // Where each user has a group of their own, a folder of theirs is often that group's too.
    let group = folder.mode & 0o020 != 0 && folder.gid != 0 && (trusted(file.uid) || file.uid != folder.uid);
    (owner || everybody || group).then(|| {
        format!(
            "it has {} names (hard links) and belongs to uid {}, while others may make names in its folder (of uid {}, {}): one of \
             them can have led here to a file that is not theirs. Give the database's own file a name of its own (copy it, and rename the copy), \
             or move a file away that is not the database's",
            file.nlink,
            file.uid,
            folder.uid,
            folder.mode_words()
        )
    })
}

fn flags() -> OFlags {
    OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

enum Next {
    Root,
    Enter(OsString),
    Up,
    /// The end of a link of this user's.
    Judge {
        owner: u32,
        link: PathBuf,
    },
}

struct Walk {
    path: PathBuf,
    /// Where it is.
    here: OwnedFd,
    /// Its name, for messages: as far as no link was followed, it is the real one.
    name: PathBuf,
    ahead: VecDeque<Next>,
    links: u32,
}

impl Walk {
    fn begin(path: &Path) -> Result<Walk, HostError> {
        let here = openat(CWD, ".", flags(), Mode::empty()).map_err(at(path, HostError::open_folder))?;
        let ahead = components(path).collect();
        Ok(Walk { path: path.to_owned(), here, name: PathBuf::new(), ahead, links: 0 })
    }

    fn failed(&self, errno: Errno) -> HostError {
        at(&self.path, HostError::open_folder)(errno)
    }

    fn finish(mut self, last: Last, make: Option<Mode>) -> Result<OwnedFd, HostError> {
        while let Some(next) = self.ahead.pop_front() {
            match next {
                Next::Root => self.go("/", PathBuf::from("/"))?,
                Next::Up => {
                    let name = self.name.join("..");
                    self.go("..", name)?;
                }
                Next::Judge { owner, link } => self.judge(owner, &link)?,
                Next::Enter(name) => self.enter(&name, last, make)?,
            }
        }
        Ok(self.here)
    }

    fn go(&mut self, to: &str, name: PathBuf) -> Result<(), HostError> {
        self.here = openat(&self.here, to, flags(), Mode::empty()).map_err(|errno| self.failed(errno))?;
        self.name = name;
        Ok(())
    }

    fn enter(&mut self, name: &OsStr, last: Last, make: Option<Mode>) -> Result<(), HostError> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = || openat(&self.here, name, flags, Mode::empty());
        let entry = match (open(), make) {
            (Err(Errno::NOENT), Some(mode)) => match mkdirat(&self.here, name, mode) {
                Ok(()) | Err(Errno::EXIST) => open(),
                Err(errno) => Err(errno),
            },
            (answer, _) => answer,
        };
        let entry = entry.map_err(|errno| self.failed(errno))?;
        let facts = FileFacts::of_fd(&entry)?;
        match facts.kind {
            FileKind::Folder => {
                self.here = entry;
                self.name.push(name);
                Ok(())
            }
            FileKind::Symlink if !(self.ahead.is_empty() && last == Last::Refuse) => {
                self.follow(name, entry, facts.uid)
            }
            _ => Err(self.failed(Errno::NOTDIR)),
        }
    }

    fn follow(&mut self, name: &OsStr, link: OwnedFd, owner: u32) -> Result<(), HostError> {
        self.links += 1;
        if self.links > LINKS_MAX {
            return Err(self.failed(Errno::LOOP));
        }
        let target = readlinkat(link.as_fd(), "", Vec::new()).map_err(|errno| self.failed(errno))?;
        let target = Path::new(OsStr::from_bytes(target.as_bytes())).to_owned();
        if owner != 0 && owner != geteuid().as_raw() {
            self.ahead.push_front(Next::Judge { owner, link: self.name.join(name) });
        }
        for next in components(&target).collect::<Vec<_>>().into_iter().rev() {
            self.ahead.push_front(next);
        }
        Ok(())
    }

    fn judge(&self, owner: u32, link: &Path) -> Result<(), HostError> {
        let end = FileFacts::of_fd(&self.here)?;
        if end.uid == owner {
            return Ok(());
        }
        Err(HostError::Planted { path: self.path.clone(), link: link.to_owned(), owner, leads_to: end.uid })
    }
}

fn components(path: &Path) -> impl Iterator<Item = Next> + '_ {
    path.components().filter_map(|component| match component {
        Component::RootDir => Some(Next::Root),
        Component::ParentDir => Some(Next::Up),
        Component::Normal(name) => Some(Next::Enter(name.to_owned())),
        Component::CurDir | Component::Prefix(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};

    use super::*;

    const USER: u32 = 65_534;

    fn ino(folder: Result<OwnedFd, HostError>) -> Result<u64, HostError> {
        folder.and_then(FileFacts::of_fd).map(|facts| facts.id.ino)
    }

    fn ino_of(path: &Path) -> u64 {
        std::fs::metadata(path).unwrap().ino()
    }

    #[test]
    fn links_of_ours_are_followed_wherever_they_lead() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().join("a/b");
        std::fs::create_dir_all(&real).unwrap();
        symlink("a", dir.path().join("to-a")).unwrap();
        symlink(dir.path().join("to-a/../a/b"), dir.path().join("to-b")).unwrap();
        symlink("loop", dir.path().join("loop")).unwrap();
        for way in ["a/b", "to-a/b", "to-b", "to-b/", "to-a/./b/../b"] {
            assert_eq!(ino(open(&dir.path().join(way), Last::Follow, None)).unwrap(), ino_of(&real), "{way}");
        }
        let refused = open(&dir.path().join("to-b"), Last::Refuse, None).unwrap_err();
        assert_eq!(refused.errno(), Some(Errno::NOTDIR));
        assert_eq!(ino(open(&dir.path().join("to-a/b"), Last::Refuse, None)).unwrap(), ino_of(&real));
        assert_eq!(open(&dir.path().join("loop/x"), Last::Follow, None).unwrap_err().errno(), Some(Errno::LOOP));
        assert!(open(&dir.path().join("none/x"), Last::Follow, None).unwrap_err().is_absent());
    }

    #[test]
    fn missing_folders_are_made_closed_to_others_also_behind_a_link() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("real")).unwrap();
        symlink("real", dir.path().join("link")).unwrap();
        let made = dir.path().join("real/x/y");
        let opened = open(&dir.path().join("link/x/y"), Last::Refuse, Some(Mode::from_raw_mode(0o700)));
        assert_eq!(ino(opened).unwrap(), ino_of(&made));
        assert_eq!(std::fs::metadata(made).unwrap().permissions().mode() & 0o7777, 0o700);
    }

    #[test]
    fn a_link_of_a_users_leads_a_privileged_guardian_nowhere_but_to_their_own() {
        if !geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for folder in ["home", "home/own", "roots", "roots/deep"] {
            std::fs::create_dir(at(folder)).unwrap();
        }
        for theirs in ["home", "home/own"] {
            chown(at(theirs), Some(USER), Some(USER)).unwrap();
        }
        for (link, to) in [("mine", "own"), ("planted", "../roots"), ("deep", "../roots/deep"), ("up", "own/../..")] {
            symlink(to, at("home").join(link)).unwrap();
            lchown(at("home").join(link), Some(USER), Some(USER)).unwrap();
        }
        assert_eq!(ino(open(&at("home/mine"), Last::Follow, None)).unwrap(), ino_of(&at("home/own")));
        for way in ["home/planted", "home/planted/deep", "home/deep", "home/up", "home/up/roots"] {
            for make in [None, Some(Mode::from_raw_mode(0o700))] {
                let refused = open(&at(way), Last::Follow, make).unwrap_err();
                assert!(matches!(refused, HostError::Planted { owner: USER, leads_to: 0, .. }), "{way}: {refused}");
            }
        }
        let outside = open(&at("home/planted/new"), Last::Follow, Some(Mode::from_raw_mode(0o700)));
        assert!(matches!(outside, Err(HostError::Planted { .. })) && !at("roots/new").exists());
    }

    #[test]
    fn a_further_name_is_believed_where_only_its_owner_could_give_it() {
        let (root, us, app, other) = (0, 500, 1000, 1001);
        let dir = tempfile::tempdir().unwrap();
        let facts = FileFacts::of_path(dir.path(), false).unwrap();
        let file = |uid, nlink| FileFacts { kind: FileKind::Regular, uid, gid: uid, nlink, ..facts.clone() };
        let folder = |uid, mode| FileFacts { kind: FileKind::Folder, uid, gid: uid, mode, ..facts.clone() };
        let table = [
            ("one name", file(root, 1), folder(app, 0o777), false),
            ("their own, in their own", file(app, 2), folder(app, 0o775), false),
            ("theirs, in root's", file(app, 2), folder(root, 0o755), false),
            ("theirs, in ours", file(app, 2), folder(us, 0o755), false),
            ("root's, in root's", file(root, 2), folder(root, 0o755), false),
            ("root's, in theirs", file(root, 2), folder(app, 0o755), true),
            ("another's, in theirs", file(other, 2), folder(app, 0o755), true),
            ("root's, where everybody may", file(root, 2), folder(root, 0o1777), true),
            ("their own, where everybody may", file(app, 2), folder(app, 0o777), true),
            ("root's, where a group may", file(root, 2), FileFacts { gid: app, ..folder(root, 0o775) }, true),
            ("root's, where root's group may", file(root, 2), folder(root, 0o775), false),
        ];
        for (name, file, folder, expected) in table {
            assert_eq!(planted(&file, &folder, us).is_some(), expected, "{name}");
        }
    }
}
