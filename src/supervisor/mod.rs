//! Schedule, incidents, gates, execution: knows modes only through their trait.

pub mod status;
