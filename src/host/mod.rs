//! The only user of /proc, inotify, statvfs and signals: who holds what, who locks what.
