//! The SQLite file format: `&[u8]` in, a struct or a format error out. No IO, no unsafe.
