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
    /// What the configuration says of a file in use.
    pub manner: Manner,
    /// The database is alone on a small file system.
    pub small_disk: bool,
}

/// What guardiand may do while the program has the file open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// Ask a person.
    Asks,
    /// Restore under the program.
    InPlace,
    /// Stop the program and start it again; nobody else does.
    StopApp,
}

/// What most stories are, or one of the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plot {
    /// Whatever comes, and a person is asked.
    Any,
    /// Whatever comes, under a program that guardiand restores under.
    InPlace,
    /// Whatever comes, under a program that guardiand stops.
    StopApp,
    /// The file goes from under a living program that guardiand may stop.
    CutOff,
    /// The disk is full for a while.
    SmallDisk,
}

/// Something happens.
#[derive(Debug)]
pub struct Act {
    /// The program commits for so long before it.
    pub after: Duration,
    pub situation: Situation,
    /// One, or two at once.
    pub faults: Vec<Fault>,
    /// So soon after it guardiand ends, and starts again.
    pub then_restart: Option<(Duration, Ending)>,
}

/// How guardiand ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// By SIGKILL.
    Killed,
    /// By SIGTERM, in order.
    Stopped,
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
        let plot = match dice.below(20) {
            0..8 => Plot::Any,
            8..11 => Plot::InPlace,
            11..14 => Plot::StopApp,
            14..18 if mode == "wal" => Plot::CutOff,
            14..18 => Plot::Any,
            _ => Plot::SmallDisk,
        };
        let small_disk = plot == Plot::SmallDisk;
        let (rows, bytes, pause): (&[u32], &[u32], &[u32]) = match small_disk {
            false => (&[1, 3, 20], &[20, 100, 900], &[1, 2, 5]),
            // It must not become full by itself.
            true => (&[1], &[20, 100], &[5]),
        };
        let (rows, bytes, pause) = (pick(&mut dice, rows), pick(&mut dice, bytes), pick(&mut dice, pause));
        let checkpoints = mode != "wal" || small_disk || dice.below(4) > 0;
        // Some megabytes a second at most: a debug build must keep up with reading them.
        let pause = if rows == 20 || !checkpoints { pause.max(20) } else { pause };
        let mut flags = vec![
            format!("--page-size={}", pick(&mut dice, &[512_u32, 1024, 4096, 4096, 8192])),
            format!("--rows-per-commit={rows}"),
            format!("--row-bytes={bytes}"),
            format!("--synchronous={}", pick(&mut dice, &["normal", "full"])),
            format!("--pause={pause}"),
        ];
        if !checkpoints {
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
        let manner = match plot {
            Plot::Any | Plot::SmallDisk => Manner::Asks,
            Plot::InPlace => Manner::InPlace,
            Plot::StopApp | Plot::CutOff => Manner::StopApp,
        };
        if manner == Manner::InPlace {
            lines.push("when_in_use = \"in-place\"".to_owned());
        }
        if dice.below(10) > 0 {
            let every = pick(&mut dice, &["1s", "2s", "1h"]);
            lines.push(format!("backup = {{ every = \"{every}\", to = \"backups\", keep = {{ last = 5 }} }}"));
        }
        let acts = (0..1 + dice.below(3)).map(|_| Act::roll(&mut dice, mode, plot)).collect();
        Story { seed, mode, flags, lines: lines.join("\n"), acts, manner, small_disk }
    }

    /// How many rows each commit has.
    pub fn rows_per_commit(&self) -> usize {
        let words = self.flags.iter().skip_while(|flag| *flag != "--rows-per-commit");
        words.skip(1).find_map(|word| word.parse().ok()).expect("it is among the flags")
    }

    /// No byte of a commit was destroyed: none may be missing.
    pub fn keeps_all(&self) -> bool {
        self.acts.iter().all(|act| act.keeps_all(self.mode))
    }

    pub fn has_backups(&self) -> bool {
        self.lines.contains("backup = ")
    }

    /// A file is damaged and goes from its place at once.
    pub fn hurts_what_is_cut_off(&self) -> bool {
        let hurts = |fault: &Fault| !fault.is_harmless() && !fault.cuts_off();
        self.acts.iter().any(|act| act.faults.iter().any(|fault| fault.cuts_off()) && act.faults.iter().any(hurts))
    }

    pub fn has(&self, fault: Fault) -> bool {
        self.acts.iter().any(|act| act.faults.contains(&fault))
    }
}

impl Act {
    fn roll(dice: &mut Dice, mode: &str, plot: Plot) -> Act {
        let after = Duration::from_millis(50 + dice.below(400) as u64);
        let situation = match plot {
            Plot::CutOff => Situation::Live,
            _ => pick(dice, &[Situation::Closed, Situation::Killed, Situation::Live, Situation::Live]),
        };
        let mut faults = match plot {
            Plot::CutOff => vec![pick(dice, &[Fault::Delete, Fault::RenameOver, Fault::DeleteWal])],
            Plot::SmallDisk => vec![Fault::FullDisk],
            _ => vec![Fault::roll(dice, mode, situation)],
        };
        let second = match plot {
            Plot::CutOff => pick(dice, &[Fault::KillGuardian, Fault::RestartGuardian, Fault::KillWorkers]),
            _ => Fault::roll(dice, mode, situation),
        };
        // Who opens a database with a damaged WAL or journal has SQLite throw it away: what that costs is nobody's to count.
        let both = [faults[0], second];
        let opened = match situation {
            Situation::Live => both.contains(&Fault::KillProgram) && both.iter().any(|fault| fault.is_of_a_side_file()),
            Situation::Closed | Situation::Killed => both.contains(&Fault::Lock),
        };
        // Nor what is in a WAL that is deleted when nobody has it open, or with a second program beside the first.
        let deleted = both.contains(&Fault::DeleteWal) && !second.is_guardians_own();
        if dice.below(4) == 0 && !opened && !deleted {
            faults.push(second);
        }
        let then_restart = (dice.below(4) == 0).then(|| {
            let ending = pick(dice, &[Ending::Killed, Ending::Killed, Ending::Stopped]);
            (Duration::from_millis(dice.below(150) as u64), ending)
        });
        Act { after, situation, faults, then_restart }
    }

    /// Whatever it meets, no byte of a commit is destroyed by it: it harms nothing, or the files have gone from their places
    /// under a program that has them open and lives on. (In rollback mode a program that cannot write any more ends.)
    fn keeps_all(&self, mode: &str) -> bool {
        let cuts = self.faults.iter().filter(|fault| fault.cuts_off()).count();
        let rest = || self.faults.iter().filter(|fault| !fault.cuts_off());
        match cuts {
            0 => rest().all(|fault| fault.is_harmless()),
            _ => {
                let alone = rest().all(|fault| fault.is_guardians_own());
                cuts == 1 && alone && mode == "wal" && self.situation == Situation::Live
            }
        }
    }
}

pub fn pick<T: Copy>(dice: &mut Dice, of: &[T]) -> T {
    of[dice.below(of.len())]
}
