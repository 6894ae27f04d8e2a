//! Which backups may go. Pure: the caller deletes.

use std::collections::HashSet;
use std::path::PathBuf;

use jiff::{SignedDuration, Timestamp};

use crate::job::{BackupEntry, Keep, TableRows};

/// The database files of the backups that no rule keeps, oldest first.
///
/// A backup stays when it is one of the newest `last` (at least one), the newest verified one, the newest from before most rows were
/// gone, or the newest of its hour, day or week among the most recent so many hours, days or weeks *that have a backup*. Counting periods that have one,
/// not periods back from now, means that neither a host that was off for a month nor a clock that jumped ahead costs a
/// backup. While one is from the future the clock went back: then age is unknown, and only `max_bytes` deletes, by their numbers.
pub fn to_delete(entries: &[BackupEntry], keep: &Keep, max_bytes: Option<u64>, now: Timestamp) -> Vec<PathBuf> {
    let mut newest_first: Vec<&BackupEntry> = entries.iter().collect();
    newest_first.sort_by(|a, b| b.age_order().cmp(&a.age_order()));
    let always = always(&newest_first, keep, now);
    let clock_went_back = newest_first.iter().any(|entry| entry.manifest.taken_at > now);
    let mut kept = if clock_went_back { (0..newest_first.len()).collect() } else { by_age(&newest_first, keep) };
    kept.extend(&always);

    if let Some(max_bytes) = max_bytes {
        let mut total: u64 = kept.iter().filter_map(|at| newest_first.get(*at)).map(|entry| entry.manifest.size).sum();
        for at in (0..newest_first.len()).rev() {
            if total <= max_bytes {
                break;
            }
            if !always.contains(&at) && kept.remove(&at) {
                total = total.saturating_sub(newest_first.get(at).map_or(0, |entry| entry.manifest.size));
            }
        }
    }
    let gone = newest_first.iter().enumerate().rev().filter(|(at, _)| !kept.contains(at));
    gone.map(|(_, entry)| entry.file.clone()).collect()
}

/// What not even `max_bytes` takes.
fn always(newest_first: &[&BackupEntry], keep: &Keep, now: Timestamp) -> HashSet<usize> {
    let last = usize::try_from(keep.last.max(1)).unwrap_or(usize::MAX);
    let verified = newest_first.iter().position(|entry| entry.manifest.verified_at >= entry.manifest.taken_at);
    (0..newest_first.len()).take(last).chain(verified).chain(before_a_collapse(newest_first, now)).collect()
}

/// The newest one with more than twice the rows of the newest of all, for a month: a program that has lost its data (it was deleted
/// and made anew, say) is sound, and would have its good backups rotated out.
fn before_a_collapse(newest_first: &[&BackupEntry], now: Timestamp) -> Option<usize> {
    const MONTH: SignedDuration = SignedDuration::from_hours(30 * 24);
    let rows = |entry: &BackupEntry| TableRows::sum(&entry.manifest.tables);
    let newest = rows(newest_first.first()?);
    newest_first.iter().position(|entry| {
        let is_recent = now.duration_since(entry.manifest.taken_at) < MONTH;
        is_recent && rows(entry) > newest.saturating_mul(2)
    })
}

fn by_age(newest_first: &[&BackupEntry], keep: &Keep) -> HashSet<usize> {
    const HOUR: i64 = 3600;
    const DAY: i64 = 24 * HOUR;
    let hour = |second: i64| second.div_euclid(HOUR);
    let day = |second: i64| second.div_euclid(DAY);
    // 1970-01-01 was a Thursday: three days on, weeks begin on Mondays.
    let week = |second: i64| (day(second) + 3).div_euclid(7);
    let rules: [(u32, &dyn Fn(i64) -> i64); 3] = [(keep.hourly, &hour), (keep.daily, &day), (keep.weekly, &week)];
    let mut kept = HashSet::new();
    for (count, period_of) in rules {
        let mut periods = HashSet::new();
        for (at, entry) in newest_first.iter().enumerate() {
            if periods.len() >= usize::try_from(count).unwrap_or(usize::MAX) {
                break;
            }
            if periods.insert(period_of(entry.manifest.taken_at.as_second())) {
                kept.insert(at);
            }
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::super::testing::entry;
    use super::*;

    const NONE: Keep = Keep { last: 0, hourly: 0, daily: 0, weekly: 0 };
    const HOUR: i64 = 3600;
    const DAY: i64 = 86_400;

    /// What it shows, the backups' ages, the rules, and the ages that go.
    type Case<'a> = (&'a str, &'a [i64], Keep, Option<u64>, &'a [i64]);

    /// Names of what goes, of backups that are so many seconds old and 10 bytes each.
    fn gone(ages: &[i64], keep: Keep, max_bytes: Option<u64>) -> Vec<i64> {
        // Wednesday 2026-11-25, 12:30 UTC.
        let now: Timestamp = "2026-11-25T12:30:00Z".parse().unwrap();
        let at = |age: &i64| Timestamp::from_second(now.as_second() - age).unwrap();
        let entries: Vec<_> = ages.iter().map(|age| entry(&age.to_string(), at(age), 10)).collect();
        let gone = to_delete(&entries, &keep, max_bytes, now);
        gone.iter().map(|file| file.file_stem().unwrap().to_str().unwrap().parse().unwrap()).collect()
    }

    #[test]
    fn the_rules_keep_what_they_say() {
        let minutes: Vec<i64> = (0..8).map(|number| number * 15 * 60).collect();
        let days: Vec<i64> = (0..10).map(|number| number * DAY).collect();
        let cases: &[Case<'_>] = &[
            ("nothing there", &[], NONE, Some(0), &[]),
            ("the only one stays whatever the rules", &[90 * DAY], NONE, Some(0), &[]),
            ("at least one stays", &[0, 60, 120], NONE, None, &[120, 60]),
            ("the newest so many", &[0, 60, 120], Keep { last: 2, ..NONE }, None, &[120]),
            ("more than there are", &[0, 60], Keep { last: 9, ..NONE }, None, &[]),
            // 12:30 12:15 12:00 | 11:45 11:30 11:15 11:00 | 10:45
            (
                "one an hour, the newest of it",
                &minutes,
                Keep { hourly: 2, ..NONE },
                None,
                &[6300, 5400, 4500, 3600, 1800, 900],
            ),
            (
                "one a day",
                &days,
                Keep { daily: 3, ..NONE },
                None,
                &[9 * DAY, 8 * DAY, 7 * DAY, 6 * DAY, 5 * DAY, 4 * DAY, 3 * DAY],
            ),
            // Weeks begin on Monday: 25 24 23 | 22 .. 16
            (
                "one a week",
                &days,
                Keep { weekly: 2, ..NONE },
                None,
                &[9 * DAY, 8 * DAY, 7 * DAY, 6 * DAY, 5 * DAY, 4 * DAY, 2 * DAY, DAY],
            ),
            (
                "union of the rules",
                &[0, 60, HOUR, DAY],
                Keep { last: 2, hourly: 1, daily: 2, weekly: 0 },
                None,
                &[HOUR],
            ),
            (
                "periods without a backup do not count",
                &[0, 400 * DAY, 800 * DAY],
                Keep { daily: 2, ..NONE },
                None,
                &[800 * DAY],
            ),
            ("too large: the oldest first", &[0, DAY, 2 * DAY], Keep { daily: 3, ..NONE }, Some(25), &[2 * DAY]),
            (
                "too large, all kept by day",
                &days,
                Keep { daily: 10, ..NONE },
                Some(25),
                &[9 * DAY, 8 * DAY, 7 * DAY, 6 * DAY, 5 * DAY, 4 * DAY, 3 * DAY, 2 * DAY],
            ),
            ("too large never costs `last`", &[0, 60, 120], Keep { last: 3, ..NONE }, Some(5), &[]),
        ];
        for (what, ages, keep, max, expected) in cases {
            assert_eq!(gone(ages, *keep, *max), *expected, "{what}");
        }
    }

    #[test]
    fn after_a_clock_step_back_age_deletes_nothing() {
        let ages = [-2 * DAY, 0, 60, 120];
        assert_eq!(gone(&ages, NONE, None), [] as [i64; 0]);
        assert_eq!(gone(&ages, NONE, Some(20)), [120, 60], "size still counts");
    }

    #[test]
    fn after_a_clock_step_back_the_newest_is_the_one_taken_last() {
        // Taken with a clock that was two days ahead, and then with one that was right.
        let now: Timestamp = "2026-11-25T12:30:00Z".parse().unwrap();
        let mut entries: Vec<_> = [2 * DAY, 2 * DAY + 60, -120, -60]
            .iter()
            .map(|ahead| entry(&ahead.to_string(), Timestamp::from_second(now.as_second() + ahead).unwrap(), 10))
            .collect();
        for (number, entry) in (1..).zip(&mut entries) {
            entry.manifest.number = number;
        }
        let keep = Keep { last: 2, ..NONE };
        assert_eq!(to_delete(&entries, &keep, None, now), [] as [PathBuf; 0]);
        assert_eq!(to_delete(&entries, &keep, Some(20), now), [entries[0].file.clone(), entries[1].file.clone()]);
    }

    #[test]
    fn what_was_there_before_most_rows_were_gone_stays_for_a_month() {
        let now: Timestamp = "2026-11-25T12:30:00Z".parse().unwrap();
        let of = |rows: &[u64], age: i64| {
            let all = rows.iter().zip(0..).map(|(rows, nth)| {
                let mut one = entry(&nth.to_string(), Timestamp::from_second(now.as_second() - age - nth).unwrap(), 10);
                one.manifest.tables = vec![TableRows { table: "t".to_owned(), rows: *rows }];
                one
            });
            let all: Vec<_> = all.collect();
            let stays = |file: &PathBuf| !to_delete(&all, &NONE, Some(0), now).contains(file);
            all.iter().map(|one| &one.file).filter(|file| stays(file)).count()
        };
        assert_eq!(of(&[3, 0, 0, 900, 901], 60), 2, "the newest, and that of 900 rows");
        assert_eq!(of(&[0, 1], 60), 2, "an empty one takes no row's place");
        assert_eq!(of(&[600, 900, 901], 60), 1, "a program deletes rows, too");
        assert_eq!(of(&[0, 0], 60), 1);
        assert_eq!(of(&[3, 0, 0, 900, 901], 31 * DAY), 1, "nobody missed them");
    }

    #[test]
    fn the_newest_verified_one_stays_behind_unverified_ones() {
        let now: Timestamp = "2026-11-25T12:30:00Z".parse().unwrap();
        let mut entries: Vec<_> = (0..4)
            .map(|n| entry(&n.to_string(), Timestamp::from_second(now.as_second() - n * 60).unwrap(), 10))
            .collect();
        for entry in &mut entries[..2] {
            entry.manifest.verified_at = Timestamp::UNIX_EPOCH;
        }
        let gone = to_delete(&entries, &NONE, Some(0), now);
        assert_eq!(gone, [entries[3].file.clone(), entries[1].file.clone()]);
    }
}
