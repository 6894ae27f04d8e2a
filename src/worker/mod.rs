//! The child: its loop, and what each job does.
