CREATE TABLE notes (
    id         INTEGER PRIMARY KEY,
    written_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
    text       TEXT NOT NULL
);

CREATE INDEX notes_by_time ON notes (written_at);
