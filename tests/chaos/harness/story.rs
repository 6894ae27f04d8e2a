//! What a seed means. The same seed is the same story; only the machine's own timing differs.

use std::time::Duration;

use super::fault::Fault;
use crate::support::damage::Dice;

/// One run.
#[derive(Debug)]
pub struct Story {
    pub seed: u64,
    /// The program's journal mode.
    pub mode: &'static str,
    /// The program's flags.
    pub flags: Vec<String>,
    /// Further lines of the database's table.
    pub lines: String,
    pub acts: Vec<Act>,
    /// guardiand may stop the program and start it again; nobody else does.
    pub app: bool,
}

/// Something happens.
#[derive(Debug)]
pub struct Act {
    /// The program commits for so long before it.
    pub after: Duration,
    pub situation: Situation,
    /// One, or two at once.
    pub faults: Vec<Fault>,
    /// guardiand is killed so soon after it.
    pub kill_after: Option<Duration>,
}

/// What the program does while it happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Situation {
    /// It was stopped in order.
    Closed,
    /// It was killed: its WAL or journal is left.
    Killed,
    /// It goes on.
    Live,
}

impl Story {
    pub fn of(seed: u64) -> Story {
        let mut dice = Dice::of(seed);
        // The first numbers of neighbouring seeds are alike.
        for _ in 0..8 {
            dice.roll();
        }
        let mode = pick(&mut dice, &["wal", "wal", "delete", "truncate", "persist"]);
        let mut flags = vec![
            format!("--page-size={}", pick(&mut dice, &[512_u32, 1024, 4096, 4096, 8192])),
            format!("--rows-per-commit={}", pick(&mut dice, &[1_u32, 3, 20])),
            format!("--row-bytes={}", pick(&mut dice, &[20_u32, 100, 900])),
            format!("--synchronous={}", pick(&mut dice, &["normal", "full"])),
            format!("--pause={}", pick(&mut dice, &[1_u32, 2, 5])),
        ];
        if mode == "wal" && dice.below(4) == 0 {
            flags.push("--no-checkpoint".to_owned());
        }
        let flags = flags.iter().flat_map(|flag| flag.split('=')).map(str::to_owned).collect();
        let mut lines = vec![
            "busy_timeout = \"1s\"".to_owned(),
            "lock_max_age = \"2s\"".to_owned(),
            "wal_max = \"1MB\"".to_owned(),
            "retry = { attempts = 2, initial = \"100ms\", max = \"1s\" }".to_owned(),
            "integrity = { quick = \"1s\", full = \"2s\" }".to_owned(),
        ];
        if dice.below(10) > 0 {
            let every = pick(&mut dice, &["1s", "2s", "1h"]);
            lines.push(format!("backup = {{ every = \"{every}\", to = \"backups\", keep = {{ last = 5 }} }}"));
        }
        let acts = (0..1 + dice.below(3)).map(|_| Act::roll(&mut dice, mode)).collect();
        let story = Story { seed, mode, flags, lines: lines.join("\n"), acts, app: false };
        if mode == "wal" && dice.below(4) == 0 { story.cut_off(&mut dice) } else { story }
    }

    /// The file goes from under a living program that guardiand may stop: then nothing may be lost.
    fn cut_off(mut self, dice: &mut Dice) -> Story {
        for act in &mut self.acts {
            act.situation = Situation::Live;
            act.faults = vec![pick(dice, &[Fault::Delete, Fault::RenameOver, Fault::DeleteWal])];
            if dice.below(3) == 0 {
                act.faults.push(pick(dice, &[Fault::KillGuardian, Fault::RestartGuardian, Fault::KillWorkers]));
            }
        }
        self.app = true;
        self
    }
}

impl Act {
    fn roll(dice: &mut Dice, mode: &str) -> Act {
        let situation = pick(dice, &[Situation::Closed, Situation::Killed, Situation::Live, Situation::Live]);
        let mut faults = vec![Fault::roll(dice, mode, situation)];
        let second = Fault::roll(dice, mode, situation);
        // Who opens a database with a damaged WAL or journal has SQLite throw it away: what that costs is nobody's to count.
        let opened = situation != Situation::Live && [faults[0], second].contains(&Fault::Lock);
        if dice.below(8) == 0 && !opened {
            faults.push(second);
        }
        let kill_after = (dice.below(5) == 0).then(|| Duration::from_millis(dice.below(80) as u64));
        Act { after: Duration::from_millis(50 + dice.below(400) as u64), situation, faults, kill_after }
    }
}

pub fn pick<T: Copy>(dice: &mut Dice, of: &[T]) -> T {
    of[dice.below(of.len())]
}
