//! File events as wakes: what wakes is never believed, only looked at.
//!
//! Folders are watched, not files, so that a file which is replaced or comes back is seen, and the targets in one folder
//! share a watch. The kernel tells a folder's watch nothing when a folder *above* it is renamed: [`Watcher::refresh`],
//! once per sweep, puts watches right again.
#![allow(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::inotify::{CreateFlags, ReadFlags, Reader, init, remove_watch};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};
use tokio::sync::mpsc::{self, Receiver, Sender, UnboundedReceiver, UnboundedSender};
use tokio::time::{Instant, sleep_until};

use super::arm::{Armed, Place, Scope, arm_aside};
use super::coalesce::{Answer, Coalescer, Touch};
use super::error::HostError;
use super::ours::is_ours;
use super::wake::{Outbox, Wake};

/// A folder whose events cannot be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blind {
    /// The folder.
    pub folder: PathBuf,
    /// Why, and what to do about it.
    pub why: String,
}

/// Watches folders; lives as long as it is held.
///
/// The first event of a file is reported at once; while more follow, they are reported after a time that doubles from
/// `first_hold` to `longest_hold`, apart for bytes written and for files that come and go. While nothing but held-back
/// events arrive, the queue is read only every `first_hold`: the kernel merges what repeats there, which makes a
/// writer of 80,000 commits a second cost half a percent of a core and not nineteen (BASELINES.md, section 7).
///
/// It does not merge what alternates: a commit with a rollback journal makes a dozen events, and their price, 10 us, is the
/// program's (2 % of its commits). A folder in which one target's files are all that is wanted *rests* while that goes on, for
/// `longest_hold` at a time: nothing is told of writes then, and the target is taken to be written. What goes or is replaced is
/// told at once all the same.
#[derive(Debug)]
pub struct Watcher {
    commands: UnboundedSender<Command>,
    wakes: Receiver<Wake>,
    blind: BlindFolders,
}

type BlindFolders = Arc<Mutex<BTreeMap<PathBuf, String>>>;

#[derive(Debug)]
enum Command {
    /// A folder, and the file in it for which alone it is watched.
    Watch(PathBuf, Option<PathBuf>),
    Forget(PathBuf),
    Refresh,
}

impl Watcher {
    /// Starts watching nothing, on the tokio runtime of the caller.
    ///
    /// # Errors
    /// [`HostError::WatchStart`].
    pub fn start(first_hold: Duration, longest_hold: Duration) -> Result<Watcher, HostError> {
        let failed = |source| HostError::WatchStart { source };
        let fd = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).map_err(|errno| failed(errno.into()))?;
        let inotify = Arc::new(fd);
        let ready = register(&inotify).map_err(failed)?;
        let (commands, orders) = mpsc::unbounded_channel();
        let (results, armed) = mpsc::unbounded_channel();
        // Short, so that repeats of what nobody has taken yet are merged in the outbox.
        let (wakes, woken) = mpsc::channel(16);
        let blind = BlindFolders::default();
        let pump = Pump {
            inotify,
            ready: Some(ready),
            orders,
            results,
            armed,
            wakes,
            outbox: Outbox::default(),
            coalescer: Coalescer::new(first_hold, longest_hold),
            first_hold,
            longest_hold,
            read_again_at: None,
            folders: BTreeMap::new(),
            resting: BTreeMap::new(),
            by_wd: HashMap::new(),
            strays: BTreeSet::new(),
            blind: Arc::clone(&blind),
        };
        tokio::spawn(pump.run());
        Ok(Watcher { commands, wakes: woken, blind })
    }

    /// Watches a folder from now on, also one that does not exist yet. It is reported once when its watch stands, so that
    /// nothing between an earlier look and the watch is missed. `only`: the file in it that this is for, when there is no
    /// other but its side files. Returns at once.
    pub fn watch(&self, folder: &Path, only: Option<&Path>) {
        self.order(Command::Watch(absolute(folder), only.map(absolute)));
    }

    /// Watches a folder no longer.
    pub fn forget(&self, folder: &Path) {
        self.order(Command::Forget(absolute(folder)));
    }

    /// Has all watches follow their paths again: after a rename above, a mount, or a failure.
    pub fn refresh(&self) {
        self.order(Command::Refresh);
    }

    /// The next wake; `None` when the runtime ends. May be dropped and called again without losing one.
    pub async fn next(&mut self) -> Option<Wake> {
        self.wakes.recv().await
    }

    /// The folders that cannot be watched at present; the sweep alone looks after them.
    pub fn blind(&self) -> Vec<Blind> {
        let blind = self.blind.lock().unwrap_or_else(PoisonError::into_inner);
        blind.iter().map(|(folder, why)| Blind { folder: folder.clone(), why: why.clone() }).collect()
    }

    fn order(&self, command: Command) {
        // It fails only when the runtime is ending, and then `next` says so.
        let _the_runtime_ends = self.commands.send(command);
    }
}

fn absolute(folder: &Path) -> PathBuf {
    std::path::absolute(folder).unwrap_or_else(|_| folder.to_path_buf())
}

#[derive(Debug)]
struct Folder {
    place: Place,
    /// A thread is at it.
    arming: bool,
    /// It must be armed once more after that.
    again: bool,
    /// The file for which alone it is watched.
    only: Option<PathBuf>,
    /// Its rest is over once everything is watched for again: what was written meanwhile is told then.
    waking: bool,
}

#[derive(Debug)]
struct Event {
    wd: i32,
    flags: ReadFlags,
    name: Option<OsString>,
}

/// What the task wakes up for.
enum Step {
    Again,
    Events(Vec<Event>),
    Order(Command),
    Armed(Armed),
    End,
}

/// The task behind a [`Watcher`].
struct Pump {
    inotify: Arc<OwnedFd>,
    /// `None` while the queue rests: the poller would wake up for each event all the same, thousands of times a second.
    ready: Option<AsyncFd<Arc<OwnedFd>>>,
    orders: UnboundedReceiver<Command>,
    results: UnboundedSender<Armed>,
    armed: UnboundedReceiver<Armed>,
    wakes: Sender<Wake>,
    outbox: Outbox,
    coalescer: Coalescer,
    first_hold: Duration,
    longest_hold: Duration,
    /// The queue rests until then.
    read_again_at: Option<Instant>,
    folders: BTreeMap<PathBuf, Folder>,
    /// Folders that rest, and until when.
    resting: BTreeMap<PathBuf, Instant>,
    by_wd: HashMap<i32, BTreeSet<PathBuf>>,
    /// Watches that nobody was known to stand on when they had events: perhaps one whose arming thread has yet to report.
    strays: BTreeSet<i32>,
    blind: BlindFolders,
}

impl Pump {
    async fn run(mut self) {
        loop {
            let now = Instant::now();
            for (path, touch) in self.coalescer.due(now) {
                self.put(path, touch);
            }
            self.wake_the_rested(now);
            self.read_again_at = self.read_again_at.filter(|at| *at > now);
            match self.read_again_at {
                Some(_) => self.ready = None,
                None if self.ready.is_none() => self.listen(now),
                None => {}
            }
            let rested = self.resting.values().min().copied();
            let timer = [self.coalescer.next_due(), self.read_again_at, rested].into_iter().flatten().min();
            let step = tokio::select! {
                permit = self.wakes.reserve(), if !self.outbox.is_empty() => match permit {
                    Ok(permit) => {
                        permit.send(self.outbox.take());
                        Step::Again
                    }
                    Err(_) => Step::End, // the watcher was dropped
                },
                ready = readable(self.ready.as_ref()) => match ready {
                    Ok(mut ready) => {
                        let (events, dry) = read_events(ready.get_inner());
                        if dry {
                            ready.clear_ready();
                        }
                        Step::Events(events)
                    }
                    Err(_) => Step::End, // the runtime ends
                },
                order = self.orders.recv() => order.map_or(Step::End, Step::Order),
                Some(armed) = self.armed.recv() => Step::Armed(armed),
                () = sleep_until(timer.unwrap_or(now)), if timer.is_some() => Step::Again,
            };
            match step {
                Step::Again => {}
                Step::Events(events) => self.digest(&events),
                Step::Order(order) => self.obey(order),
                Step::Armed(armed) => self.settle(armed),
                Step::End => return,
            }
        }
    }

    /// Has the poller say again when there are events: those of the rest as well. Where it cannot, the queue is read at each rest's end.
    fn listen(&mut self, now: Instant) {
        match register(&self.inotify) {
            Ok(ready) => self.ready = Some(ready),
            Err(_) => {
                self.read_again_at = Some(now + self.first_hold);
                let (events, _) = read_events(&self.inotify);
                self.digest(&events);
            }
        }
    }

    fn obey(&mut self, order: Command) {
        match order {
            Command::Watch(folder, only) => {
                self.arm(&folder);
                if let Some(known) = self.folders.get_mut(&folder) {
                    known.only = only;
                }
            }
            Command::Forget(folder) => {
                self.resting.remove(&folder);
                if let Some(known) = self.folders.remove(&folder) {
                    self.release(&folder, &known.place);
                }
                self.blind.lock().unwrap_or_else(PoisonError::into_inner).remove(&folder);
            }
            Command::Refresh => self.arm_all(),
        }
    }

    fn arm(&mut self, folder: &Path) {
        if self.begin_arming(folder) {
            arm_aside(&self.inotify, vec![folder.to_path_buf()], Scope::All, &self.results);
        }
    }

    /// Has a folder rest in which files are written all the time, if one target is all that it is watched for.
    fn rest(&mut self, wd: i32, now: Instant) {
        let Some(folder) = self.by_wd.get(&wd).filter(|users| users.len() == 1).and_then(BTreeSet::first).cloned()
        else {
            return;
        };
        let Some(known) = self.folders.get_mut(&folder) else { return };
        let may_rest = known.only.is_some() && !known.arming && matches!(known.place, Place::Folder(_));
        if may_rest && !self.resting.contains_key(&folder) {
            known.arming = true;
            arm_aside(&self.inotify, vec![folder.clone()], Scope::Resting, &self.results);
            self.resting.insert(folder, now + self.longest_hold);
        }
    }

    fn wake_the_rested(&mut self, now: Instant) {
        if self.resting.values().all(|until| *until > now) {
            return;
        }
        let rested: Vec<PathBuf> =
            self.resting.iter().filter(|(_, until)| **until <= now).map(|(folder, _)| folder.clone()).collect();
        for folder in rested {
            self.resting.remove(&folder);
            self.arm(&folder);
            if let Some(known) = self.folders.get_mut(&folder) {
                known.waking = true;
            }
        }
    }

    fn arm_all(&mut self) {
        /// Folders that share a thread: one that hangs delays no more than these.
        const SHARE: usize = 32;
        let all: Vec<PathBuf> = self.folders.keys().cloned().collect();
        let free: Vec<PathBuf> = all.into_iter().filter(|folder| self.begin_arming(folder)).collect();
        for share in free.chunks(SHARE) {
            arm_aside(&self.inotify, share.to_vec(), Scope::All, &self.results);
        }
    }

    /// Whether no thread is at this folder yet: at most one ever hangs on it.
    fn begin_arming(&mut self, folder: &Path) -> bool {
        let fresh = || Folder { place: Place::Nowhere, arming: false, again: false, only: None, waking: false };
        let known = self.folders.entry(folder.to_path_buf()).or_insert_with(fresh);
        known.again = known.arming;
        !std::mem::replace(&mut known.arming, true)
    }

    fn settle(&mut self, Armed { folder, place }: Armed) {
        let (place, why) = match place {
            Ok(place) => (place, None),
            Err(why) => (Place::Nowhere, Some(why)),
        };
        let Some(known) = self.folders.get_mut(&folder) else {
            return self.release(&folder, &place); // forgotten meanwhile
        };
        known.arming = false;
        let mut again = std::mem::take(&mut known.again);
        let woken = match again {
            true => None, // by the one that follows
            false => known.only.clone().filter(|_| std::mem::take(&mut known.waking)),
        };
        let before = std::mem::replace(&mut known.place, place.clone());
        if let Some(only) = woken {
            // Others may have come to wait for what is created here.
            let others = place.wd().and_then(|wd| self.by_wd.get(&wd)).into_iter().flatten();
            let others: Vec<PathBuf> = others.filter(|other| **other != folder).cloned().collect();
            others.iter().for_each(|other| self.arm(other));
            self.touched(&only, Touch::Written, Instant::now());
        }
        if before != place {
            self.release(&folder, &before);
            self.outbox.put(folder.clone());
        }
        if let Some(wd) = place.wd() {
            self.by_wd.entry(wd).or_default().insert(folder.clone());
            // What it missed may have been its own end, or the folder that it waits for.
            again |= self.strays.contains(&wd);
        }
        if !self.strays.is_empty() && !self.folders.values().any(|folder| folder.arming) {
            self.strays.clear();
        }
        let mut blind = self.blind.lock().unwrap_or_else(PoisonError::into_inner);
        match why {
            Some(why) => blind.insert(folder.clone(), why),
            None => blind.remove(&folder),
        };
        drop(blind);
        if again {
            self.arm(&folder);
        }
    }

    /// Gives up a place; its watch goes when nobody else stands there.
    fn release(&mut self, folder: &Path, place: &Place) {
        let Some(wd) = place.wd() else { return };
        if let Some(users) = self.by_wd.get_mut(&wd) {
            users.remove(folder);
            if !users.is_empty() {
                return;
            }
        }
        self.by_wd.remove(&wd);
        let _gone_already = remove_watch(&self.inotify, wd);
    }

    fn digest(&mut self, events: &[Event]) {
        let now = Instant::now();
        // What one reading brings of a folder whose files are written all the time.
        const BUSY: usize = 16;
        let mut by_wd = BTreeMap::<i32, usize>::new();
        let mut all_held_back = !events.is_empty();
        for event in events {
            if event.flags.contains(ReadFlags::QUEUE_OVERFLOW) {
                self.coalescer.forget_all();
                self.outbox.put_everything();
                // A folder's own end may have been among what was lost.
                self.arm_all();
                all_held_back = false;
                continue;
            }
            *by_wd.entry(event.wd).or_default() += 1;
            let standing = self.by_wd.get(&event.wd).cloned();
            if standing.is_none() && self.folders.values().any(|folder| folder.arming) {
                self.strays.insert(event.wd);
            }
            for folder in standing.unwrap_or_default() {
                all_held_back &= self.digest_for(&folder, event, now);
            }
        }
        if all_held_back {
            self.read_again_at = Some(now + self.first_hold);
            by_wd.into_iter().filter(|(_, events)| *events >= BUSY).for_each(|(wd, _)| self.rest(wd, now));
        }
    }

    /// Whether the event was held back.
    fn digest_for(&mut self, folder: &Path, event: &Event, now: Instant) -> bool {
        let ends = ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::UNMOUNT | ReadFlags::IGNORED;
        let Some(known) = self.folders.get_mut(folder) else { return true };
        if event.flags.intersects(ends) {
            let before = std::mem::replace(&mut known.place, Place::Nowhere);
            self.release(folder, &before);
            self.outbox.put(folder.to_path_buf());
            self.arm(folder);
            return false;
        }
        match (&known.place, &event.name) {
            (Place::Above { next, .. }, Some(name)) if next == name => self.arm(folder),
            (Place::Folder(_), None) => return self.report(folder, event.flags, now),
            (Place::Folder(_), Some(name)) if !is_ours(name.as_bytes()) => {
                return self.report(&folder.join(name), event.flags, now);
            }
            _ => {}
        }
        true
    }

    fn put(&mut self, path: PathBuf, touch: Touch) {
        match touch {
            Touch::Changed => self.outbox.put(path),
            Touch::Written | Touch::Closed => self.outbox.put_written(path),
        }
    }

    fn report(&mut self, path: &Path, flags: ReadFlags, now: Instant) -> bool {
        let touch = if flags.contains(ReadFlags::MODIFY) {
            Touch::Written
        } else if flags.contains(ReadFlags::CLOSE_WRITE) {
            Touch::Closed
        } else {
            Touch::Changed
        };
        self.touched(path, touch, now)
    }

    /// Whether it was held back.
    fn touched(&mut self, path: &Path, touch: Touch, now: Instant) -> bool {
        match self.coalescer.event(path, touch, now) {
            Answer::Now => self.put(path.to_path_buf(), touch),
            Answer::Later => return true,
            Answer::TooMany => self.outbox.put_everything(),
        }
        false
    }
}

fn register(inotify: &Arc<OwnedFd>) -> std::io::Result<AsyncFd<Arc<OwnedFd>>> {
    // SAFETY: the descriptor is owned by the `Arc`, of which the `AsyncFd` holds a share that nothing replaces: it is
    // open, and the same one, for as long as that lives.
    let registered = unsafe { AsyncFd::register_with_interest(Arc::clone(inotify), Interest::READABLE) };
    registered.map_err(Into::into)
}

/// Never, while the queue rests.
async fn readable(ready: Option<&AsyncFd<Arc<OwnedFd>>>) -> std::io::Result<AsyncFdReadyGuard<'_, Arc<OwnedFd>>> {
    match ready {
        Some(ready) => ready.readable().await,
        None => std::future::pending().await,
    }
}

/// Reads what is queued, up to a bound, and whether that was all.
fn read_events(inotify: &OwnedFd) -> (Vec<Event>, bool) {
    /// Then others get their turn.
    const MOST_EVENTS: usize = 4096;
    let mut buffer = [MaybeUninit::uninit(); 16 << 10];
    let mut reader = Reader::new(inotify, &mut buffer);
    let mut events = Vec::new();
    loop {
        match reader.next() {
            Ok(event) => {
                let name = event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()).to_owned());
                events.push(Event { wd: event.wd(), flags: event.events(), name });
            }
            Err(Errno::INTR) => {}
            // WOULDBLOCK; anything else would come again at once, so it waits for the next event as well.
            Err(_) => return (events, true),
        }
        if events.len() >= MOST_EVENTS && reader.is_buffer_empty() {
            return (events, false);
        }
    }
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
