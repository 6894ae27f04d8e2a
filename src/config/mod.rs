//! Load, validate with line and caret, reload.
