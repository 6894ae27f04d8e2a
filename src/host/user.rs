//! Users of this host, as the C library knows them: local files, LDAP, systemd's dynamic users alike.
//!
//! A lookup may ask a server and block: only in a worker.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::io;
use std::ptr;

use serde::{Deserialize, Serialize};

use super::error::HostError;

/// A user with its groups.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Its name; the number in digits where it has none.
    pub name: String,
    /// Its number.
    pub uid: u32,
    /// Its groups, the primary first; empty for a number without a name.
    pub groups: Vec<u32>,
}

impl User {
    /// The user of that name, or else of that number.
    ///
    /// # Errors
    /// [`HostError::NoSuchUser`] or [`HostError::User`].
    pub fn named(name: &str) -> Result<User, HostError> {
        let failed = |source| HostError::User { name: name.into(), source };
        let c_name = CString::new(name).map_err(|_| HostError::NoSuchUser(name.into()))?;
        // SAFETY: getpwnam_r(3) reads the name and writes the record, the buffer within its length, and the result.
        let lookup = |record, buffer, length, result| unsafe {
            libc::getpwnam_r(c_name.as_ptr(), record, buffer, length, result)
        };
        match find(lookup).map_err(failed)? {
            Some(entry) => entry.with_groups(),
            None => match name.parse() {
                Ok(uid) => User::numbered(uid),
                Err(_) => Err(HostError::NoSuchUser(name.into())),
            },
        }
    }

    /// The user of that number; one without a name has no groups.
    ///
    /// # Errors
    /// [`HostError::User`].
    pub fn numbered(uid: u32) -> Result<User, HostError> {
        let failed = |source| HostError::User { name: uid.to_string(), source };
        // SAFETY: getpwuid_r(3) writes the record, the buffer within its length, and the result.
        let lookup = |record, buffer, length, result| unsafe { libc::getpwuid_r(uid, record, buffer, length, result) };
        match find(lookup).map_err(failed)? {
            Some(entry) => entry.with_groups(),
            None => Ok(User { name: uid.to_string(), uid, groups: Vec::new() }),
        }
    }
}

/// What we keep of a `struct passwd`.
struct Entry {
    name: CString,
    uid: u32,
    gid: u32,
}

impl Entry {
    fn with_groups(self) -> Result<User, HostError> {
        let name = self.name.to_string_lossy().into_owned();
        match groups_of(&self.name, self.gid) {
            Ok(groups) => Ok(User { name, uid: self.uid, groups }),
            Err(source) => Err(HostError::User { name, source }),
        }
    }
}

type Lookup<'a> = &'a dyn Fn(*mut libc::passwd, *mut libc::c_char, libc::size_t, *mut *mut libc::passwd) -> libc::c_int;

fn find(
    lookup: impl Fn(*mut libc::passwd, *mut libc::c_char, libc::size_t, *mut *mut libc::passwd) -> libc::c_int,
) -> io::Result<Option<Entry>> {
    // Doubled until it fits; a record beyond 1 MiB is nobody's.
    for power in 10..=20 {
        match find_within(&lookup, 1 << power) {
            Err(error) if error.raw_os_error() == Some(libc::ERANGE) => {}
            answer => return answer,
        }
    }
    Err(io::Error::from_raw_os_error(libc::ERANGE))
}

fn find_within(lookup: Lookup<'_>, size: usize) -> io::Result<Option<Entry>> {
    let mut buffer = vec![0; size];
    let mut record = std::mem::MaybeUninit::<libc::passwd>::uninit();
    let mut result = ptr::null_mut();
    match lookup(record.as_mut_ptr(), buffer.as_mut_ptr(), buffer.len(), &raw mut result) {
        0 if result.is_null() => Ok(None),
        0 => {
            // SAFETY: with 0 and a result, the record is filled in and its strings lie in `buffer`, which lives on.
            let entry = unsafe {
                let record = record.assume_init_ref();
                Entry { name: CStr::from_ptr(record.pw_name).to_owned(), uid: record.pw_uid, gid: record.pw_gid }
            };
            Ok(Some(entry))
        }
        // getpwnam(3): some libraries answer these for a name that is not known.
        libc::ENOENT | libc::ESRCH => Ok(None),
        number => Err(io::Error::from_raw_os_error(number)),
    }
}

fn groups_of(name: &CStr, primary: u32) -> io::Result<Vec<u32>> {
    // NGROUPS_MAX is 65,536.
    for power in 5..=17 {
        let mut groups = vec![0; 1 << power];
        let mut count = libc::c_int::try_from(groups.len()).unwrap_or(0);
        // SAFETY: getgrouplist(3) reads the name and writes at most `count` groups, which is what the vector holds.
        let answer = unsafe { libc::getgrouplist(name.as_ptr(), primary, groups.as_mut_ptr(), &raw mut count) };
        if answer >= 0 {
            groups.truncate(usize::try_from(count).unwrap_or(0));
            return Ok(groups);
        }
    }
    Err(io::Error::other("the user is in more groups than the kernel allows"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_known_by_name_and_by_number() {
        let root = User::named("root").unwrap();
        assert_eq!((root.uid, root.groups.first()), (0, Some(&0)));
        assert_eq!(User::numbered(0).unwrap(), root);
        assert_eq!(User::named("0").unwrap(), root);
    }

    #[test]
    fn a_name_that_nobody_has_is_said_and_a_bare_number_is_taken() {
        for name in ["no-such-user-here", "", "a\0b", "-1"] {
            assert!(matches!(User::named(name), Err(HostError::NoSuchUser(_))), "{name:?}");
        }
        let number = User::named("3999999999").unwrap();
        assert_eq!(number, User { name: "3999999999".into(), uid: 3_999_999_999, groups: vec![] });
    }
}
