//! One folder per failure mode, and the registry.
