#!/usr/bin/env python3
"""Writes the seeds of all fuzz targets to fuzz/corpus: small databases of every kind, and their parts. Python's own SQLite makes them."""

import os
import shutil
import sqlite3
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
FILL = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<120) INSERT INTO"


def put(target, name, data):
    folder = os.path.join(HERE, "corpus", target)
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, name), "wb") as file:
        file.write(data)


def fill(db):
    db.executescript(f"""
        CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT, b); CREATE INDEX t_a ON t(a);
        CREATE TABLE w(k TEXT PRIMARY KEY, v) WITHOUT ROWID; CREATE TABLE gone(x);
        {FILL} t SELECT i, 'text ' || i, i / 3.0 FROM n; {FILL} w SELECT 'key ' || i, i FROM n;
        {FILL} gone SELECT i FROM n; INSERT INTO t(a, b) VALUES ('long', zeroblob(3000)); DROP TABLE gone;""")


def read(path):
    with open(path, "rb") as file:
        return file.read()


def make(folder, name, size, pragmas):
    path = os.path.join(folder, name)
    db = sqlite3.connect(path, isolation_level=None)
    db.executescript(f"PRAGMA page_size={size}; {pragmas}")
    fill(db)
    db.close()
    data = read(path)
    for target in ("scrub", "salvage"):
        put(target, name, data)
    put("header", name, data[:100])
    for page in range(min(len(data) // size, 8)):
        how = bytes([(size // 512).bit_length() - 1 | (0 if page == 0 else 8), 0])
        put("page", f"{name}-{page}", how + data[page * size:(page + 1) * size])
    return path


def main():
    with tempfile.TemporaryDirectory() as folder:
        make(folder, "plain", 512, "")
        make(folder, "large", 4096, "")
        make(folder, "vacuum", 1024, "PRAGMA auto_vacuum=FULL")
        make(folder, "utf16", 512, "PRAGMA encoding='UTF-16le'")
        # Side files, taken while a transaction or a reader keeps them.
        path = make(folder, "wal", 512, "")
        db = sqlite3.connect(path, isolation_level=None)
        db.executescript("PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0; UPDATE t SET b=a; DELETE FROM w")
        put("wal", "wal", read(path + "-wal"))
        db.close()
        path = make(folder, "journal", 512, "")
        db = sqlite3.connect(path, isolation_level=None)
        db.executescript("PRAGMA cache_size=1; BEGIN; UPDATE t SET b=a; DELETE FROM w")
        put("journal", "journal", read(path + "-journal"))
        db.close()
    tree = (2).to_bytes(4, "little") + b"\0\1\0t\1\0t"
    numbers = b"".join(number.to_bytes(4, "little") for number in (1, 4096, 2, 1, 5))
    put("page_map", "two", b"guardiand pages\n" + numbers + b"about" + tree + bytes(4) + b"\xff" * 4 + bytes(range(32)))
    put("record", "all", bytes([9, 0, 1, 2, 6, 7, 8, 13 + 2 * 3, 12 + 2 * 2]) + bytes([5, 1, 2] + [9] * 8 + [64, 8] + [0] * 6) + b"abc\x00\xff")
    put("record", "schema", b"\x06\x17\x0f\x0f\x01\x25tablett\x02CREATE T(a)")


if __name__ == "__main__":
    shutil.rmtree(os.path.join(HERE, "corpus"), ignore_errors=True)
    main()
