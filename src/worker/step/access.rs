//! Putting owner and mode back: metadata only, through a descriptor that follows no link.

use super::place::Place;
use super::{done, nothing, refused, while_};
use crate::host::give;
use crate::job::{JobFailure, Owner, StepReport};

/// Gives the main file and its side files `owner`.
pub(super) fn restore(place: &Place<'_>, owner: &Owner) -> Result<StepReport, JobFailure> {
    let Some(main) = place.stat(&place.name)? else {
        return Err(refused(format!("{} is not there any more", place.path().display())));
    };
    if Owner::from(&main) == *owner {
        return Ok(nothing("owner and mode are as they were when it was healthy"));
    }
    let mut names = vec![place.name.clone()];
    names.extend(super::place::SIDES.iter().map(|(suffix, _)| place.side(suffix)));
    for name in &names {
        let Some(facts) = place.stat(name)? else { continue };
        if Owner::from(&facts) != *owner {
            let doing = format!("putting owner and mode of {} back", place.path_of(name).display());
            give(&place.folder, name, owner.uid, owner.gid, owner.mode).map_err(while_(doing))?;
        }
    }
    Ok(done(format!(
        "owner {}:{} and mode {:04o} are back (it was {}:{} and {:04o})",
        owner.uid, owner.gid, owner.mode, main.uid, main.gid, main.mode
    )))
}
