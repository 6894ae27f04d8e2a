//! The only user of /proc, inotify, statvfs, signals and `systemctl`: who holds what, who locks what.
//!
//! Facts and mechanisms, no judgement. Everything here that takes a path or reads a descriptor can block for as long
//! as a disk or a server likes, so it belongs in a worker child; [`Watcher`] is the one piece made for the supervisor,
//! and it does its path calls on threads of their own. All facts serialize, for a worker hands them to the supervisor.
//!
//! | question | answer |
//! | --- | --- |
//! | what is at this path? | [`FileFacts`], [`Folder`] |
//! | which file system, and may it be healed? | [`Mounts`], [`Space`], [`FsId`], [`boot_id`] |
//! | who locks it? | [`LockTable`] for names, [`ask_lock`] for the truth |
//! | who has it open? | [`find_holders`] |
//! | does its holder stand still, and why? | [`standstill()`] |
//! | may the program's user open it? | [`User`], [`Access`] |
//! | when does it change? | [`Watcher`] |
//! | who keeps its bytes when nobody has a name for them? | [`fork_keeper`] |
//! | does its program run, and how is that stopped? | [`UnitState`], [`stop_app`], [`start_app`] |

mod access;
mod apart;
mod app;
mod arm;
mod boot;
mod coalesce;
mod copy;
mod error;
mod facts;
mod folder;
mod forked;
mod give;
mod holders;
mod keeper;
mod lock_table;
mod mounts;
mod ofd;
mod ours;
mod ownership;
mod proc_files;
mod process;
mod procfs;
mod read;
mod read_ahead;
mod sample;
mod siblings;
mod space;
mod sqlite_lock;
mod standstill;
mod user;
mod wake;
mod watch;
mod way;
mod write_back;

pub use access::{Access, Evidence};
pub use apart::apart;
pub use app::{Starting, UnitState, kill_unit, start_app, stop_app};
pub use boot::{FsId, boot_id, boot_ms};
pub use copy::{Copied, CopyMethod, copy_file};
pub use error::HostError;
pub use facts::{Device, FileFacts, FileId, FileKind};
pub use folder::Folder;
pub use forked::in_forked_child;
pub use give::give;
pub use holders::{Holder, Holders, Scan, Sought, find_holders, find_holders_patiently};
pub use keeper::{fork_keeper, open_descriptor_of};
pub use lock_table::{Lock, LockKind, LockMode, LockTable};
pub use mounts::{Locality, Mount, Mounts};
pub use ofd::{Bytes, Conflict, OfdLock, ask_lock};
pub use ours::{OUR_PREFIX, SALVAGE_PREFIX, is_our_state, is_ours, sweep_out};
pub use ownership::Ownership;
pub use process::{
    ProcessFacts, ProcessHandle, die_with_parent, limit_memory, no_core_dumps, resident_bytes, runs_since,
};
pub use read::{fill, page_threads, read_up_to};
pub use read_ahead::{ReadAhead, forget_cached, forget_cached_range, read_ahead};
pub use sample::process_sample;
pub use siblings::supervisor;
pub use space::Space;
pub use sqlite_lock::{HeldBy, SqliteLock};
pub use standstill::{not_ours_to_signal, standstill};
pub use user::User;
pub use wake::Wake;
pub use watch::{Blind, Watcher};
pub use way::{is_planted_at, planted_name};
pub use write_back::{WINDOW_BYTES, write_back, write_back_window};
