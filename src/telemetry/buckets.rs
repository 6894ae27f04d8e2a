//! The histograms' buckets, in seconds.

/// Detection to proven health: 5 ms to 1 h, as INTERFACE promises.
pub(super) const RECOVERY: &[f64] =
    &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0];

/// One layer of one check: a `stat` costs 10 µs, an `integrity_check` of a large database a minute.
pub(super) const CHECK: &[f64] =
    &[0.000_01, 0.000_03, 0.000_1, 0.000_3, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0];

/// Fault to detection: a file event takes milliseconds, a missed one an interval.
pub(super) const DETECTION: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// One step of a playbook: a rename takes a millisecond, a restore of a large database minutes.
pub(super) const STEP: &[f64] =
    &[0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 600.0];
