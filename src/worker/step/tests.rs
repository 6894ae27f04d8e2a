use super::install::Gap;
use std::cell::Cell;
thread_local! { pub(super) static DIE_AT: Cell<Option<Gap>> = const { Cell::new(None) }; }
