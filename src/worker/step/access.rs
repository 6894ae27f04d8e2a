//! Putting owner and mode back: metadata only, through a descriptor that follows no link.

use super::place::Place;
use super::{done, nothing, refused, while_};
use crate::host::give;
use crate::job::{FileFacts, JobFailure, Owner, StepReport};

/// Gives the main file, which must be `inode` still, and its side files `owner`.
pub(super) fn restore(place: &Place<'_>, owner: &Owner, inode: Option<u64>) -> Result<StepReport, JobFailure> {
    let Some(main) = place.stat(&place.name)? else {
        return Err(refused(format!("{} is not there any more", place.path().display())));
    };
    if inode.is_some_and(|inode| inode != main.ino) {
        return Err(refused(format!("{} is another file now: nobody is given it", place.path().display())));
    }
    if Owner::from(&main) == *owner {
        return Ok(nothing("owner and mode are as they were when it was healthy"));
    }
    let mut names = vec![place.name.clone()];
    names.extend(super::place::SIDES.iter().map(|(suffix, _)| place.side(suffix)));
    for name in &names {
        let Some(facts) = place.stat(name)? else { continue };
        // What changed hands together goes back together; a side file of a third party's is theirs.
        let belongs = |facts: &FileFacts| facts.uid == main.uid || facts.uid == owner.uid;
        if Owner::from(&facts) != *owner && belongs(&facts) {
            let doing = format!("putting owner and mode of {} back", place.path_of(name).display());
            let id = place.folder.stat_in(name).map_err(while_(&doing))?.id;
            if id.ino != facts.ino {
                return Err(refused(format!("{} was replaced meanwhile", place.path_of(name).display())));
            }
            give(&place.folder, name, id, owner.uid, owner.gid, owner.mode).map_err(while_(doing))?;
        }
    }
    Ok(done(format!(
        "owner {}:{} and mode {:04o} are back (it was {}:{} and {:04o})",
        owner.uid, owner.gid, owner.mode, main.uid, main.gid, main.mode
    )))
}
