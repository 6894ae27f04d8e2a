//! Which takes the place of a wreck: the rows that were salvaged of it, or its newest backup that passes.
//!
//! The one that loses fewer rows wins; ties go to the backup. What counts as lost:
//!
//! | | the backup loses | what was salvaged loses |
//! | --- | --- | --- |
//! | a row that only the wreck has, or has with another content | it | |
//! | a row that only the backup has, of a table that is whole in the wreck | | nothing: it was deleted since |
//! | a row that only the backup has, of a table that is hurt | | it; but where gaps are filled from the backup what is left was deleted |
//! | a row that neither has, and that an index names | it | it |
//! | a row of which it is not sure that it was read right | | it |
//!
//! Rows are told apart by their keys, never by how many there are: a table that had ten rows deleted and ten added has as many as its
//! backup, and the backup loses ten. They are counted table by table, and a table of which one side loses more than half counts before
//! all rows: else a log that grew by thousands since the backup would outvote the handful of accounts that the wreck no longer has. Not
//! shares of tables: one session of ten would outvote the thousand orders of a million.

use crate::job::SalvagedTable;
use crate::sqlite::Difference;

/// Tables that are named.
const NAMED: usize = 3;

/// What is at stake in one table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Stake {
    pub table: String,
    /// Rows that were salvaged, with those that were filled in.
    pub kept: u64,
    /// Rows that what was salvaged loses.
    pub salvage_loses: u64,
    /// Rows that the backup loses.
    pub backup_loses: u64,
}

/// What one of the two loses.
struct Cost<'a> {
    /// Tables of which more than half is lost. They count before rows.
    tables: Vec<&'a str>,
    rows: u64,
}

impl Stake {
    /// Of a table that was salvaged (`salvaged`, none where nothing was wrong with it) and compared with the backup's.
    pub(super) fn of(difference: &Difference, salvaged: Option<&SalvagedTable>) -> Stake {
        let whole = SalvagedTable::default();
        let salvaged = salvaged.unwrap_or(&whole);
        let is_hurt = salvaged.incomplete || salvaged.lost + salvaged.uncertain + salvaged.refused > 0;
        // A row that was damaged on its way is no newer one, and none that may be older.
        let unsure = salvaged.uncertain + salvaged.carved;
        let Some(keys) = difference.by_key else {
            // Nothing but numbers.
            let missing = if is_hurt { difference.there.saturating_sub(difference.here) } else { 0 };
            return Stake {
                table: difference.table.clone(),
                kept: difference.here,
                salvage_loses: missing.max(salvaged.lost + salvaged.refused) + salvaged.uncertain,
                backup_loses: difference.here.saturating_sub(difference.there).saturating_sub(unsure),
            };
        };
        let beyond = (keys.only_here + keys.changed).saturating_sub(unsure);
        let known = salvaged.lost + salvaged.refused;
        let is_filled = keys.is_rowid && keys.same_columns;
        let (salvage_loses, neither) = match (is_hurt || known > 0, is_filled) {
            (false, _) => (0, 0),
            (true, true) => (known, salvaged.lost),
            (true, false) => (known.max(keys.only_there), 0),
        };
        Stake {
            table: difference.table.clone(),
            kept: difference.here,
            salvage_loses: salvage_loses + salvaged.uncertain,
            backup_loses: beyond + neither,
        }
    }

    /// More than half of its rows, of all that are known.
    fn is_most(&self, lost: u64) -> bool {
        lost.saturating_mul(2) > self.kept + self.salvage_loses
    }
}

/// True where what was salvaged wins.
pub(super) fn salvage_wins(stakes: &[Stake]) -> bool {
    let (salvage, backup) = costs(stakes);
    (salvage.tables.len(), salvage.rows) < (backup.tables.len(), backup.rows)
}

/// What both lose, in words.
pub(super) fn told(stakes: &[Stake]) -> String {
    let (salvage, backup) = costs(stakes);
    format!("what can be salvaged loses {}, and the backup {}", salvage.words(), backup.words())
}

impl Cost<'_> {
    fn words(&self) -> String {
        let rows = match self.rows {
            0 => "no row".to_owned(),
            1 => "1 row".to_owned(),
            rows => format!("{rows} rows"),
        };
        let named = self.tables.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
        match self.tables.len() {
            0 => rows,
            tables if tables > NAMED => format!("{rows}, most of {named} and {} more", tables - NAMED),
            _ => format!("{rows}, most of {named}"),
        }
    }
}

fn costs(stakes: &[Stake]) -> (Cost<'_>, Cost<'_>) {
    let cost = |of: fn(&Stake) -> u64| {
        let gone = stakes.iter().filter(|stake| stake.is_most(of(stake)));
        Cost { tables: gone.map(|stake| stake.table.as_str()).collect(), rows: stakes.iter().map(of).sum() }
    };
    (cost(|stake| stake.salvage_loses), cost(|stake| stake.backup_loses))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sqlite::ByKey;

    fn stake(table: &str, kept: u64, salvage_loses: u64, backup_loses: u64) -> Stake {
        Stake { table: table.to_owned(), kept, salvage_loses, backup_loses }
    }

    #[test]
    fn fewer_rows_lost_wins_and_a_table_that_is_gone_counts_before_rows() {
        let table = [
            // Ties go to the backup.
            (vec![stake("t", 100, 0, 0)], false),
            (vec![stake("t", 100, 5, 5)], false),
            (vec![stake("t", 100, 5, 6)], true),
            (vec![stake("t", 100, 6, 5)], false),
            (vec![], false),
            // A log that grew outvotes no accounts…
            (vec![stake("log", 1_000_000, 0, 5000), stake("accounts", 0, 100, 0)], false),
            (vec![stake("log", 1_000_000, 0, 5000), stake("accounts", 40, 60, 0)], false),
            // … but one session is not worth a thousand orders.
            (vec![stake("orders", 1_000_000, 0, 1000), stake("sessions", 9, 1, 0)], true),
            // A table that the backup has hardly anything of.
            (vec![stake("new", 10, 0, 10), stake("old", 1000, 400, 0)], true),
            // Each loses one: rows tell.
            (vec![stake("new", 10, 0, 10), stake("old", 0, 9, 0)], true),
            (vec![stake("new", 10, 0, 10), stake("old", 0, 11, 0)], false),
        ];
        for (stakes, wins) in table {
            assert_eq!(salvage_wins(&stakes), wins, "{stakes:?}: {}", told(&stakes));
        }
        let said = told(&[stake("log", 1_000_000, 0, 5000), stake("accounts", 0, 100, 1)]);
        assert_eq!(said, "what can be salvaged loses 100 rows, most of accounts, and the backup 5001 rows");
    }

    #[test]
    fn what_a_table_loses_follows_from_its_keys_and_from_what_is_wrong_with_it() {
        let keys = ByKey { only_here: 10, only_there: 20, changed: 3, is_rowid: true, same_columns: true };
        let difference = |by_key| Difference { table: "t".to_owned(), here: 90, there: 100, by_key };
        let hurt =
            |lost, uncertain| SalvagedTable { table: "t".to_owned(), kept: 90, lost, uncertain, ..Default::default() };
        let loses = |by_key, salvaged: Option<SalvagedTable>| {
            let stake = Stake::of(&difference(by_key), salvaged.as_ref());
            (stake.salvage_loses, stake.backup_loses)
        };
        // Rows that a table without damage lacks were deleted.
        assert_eq!(loses(Some(keys), None), (0, 13));
        assert_eq!(loses(None, None), (0, 0), "as far as numbers say");
        // Gaps were filled: what is lost is in neither.
        assert_eq!(loses(Some(keys), Some(hurt(4, 0))), (4, 17));
        // They were not, and nothing tells what was deleted.
        let of_keys = ByKey { is_rowid: false, ..keys };
        assert_eq!(loses(Some(of_keys), Some(hurt(4, 0))), (20, 13));
        assert_eq!(loses(Some(ByKey { same_columns: false, ..keys }), Some(hurt(4, 0))), (20, 13));
        assert_eq!(loses(None, Some(hurt(4, 0))), (10, 0));
        // What was read of a damaged chain is nothing newer.
        let one = ByKey { only_here: 0, only_there: 0, changed: 2, ..keys };
        assert_eq!(loses(Some(one), Some(hurt(0, 2))), (2, 0));
        let incomplete = SalvagedTable { incomplete: true, ..hurt(0, 0) };
        assert_eq!(loses(Some(of_keys), Some(incomplete)), (20, 13));
    }
}
