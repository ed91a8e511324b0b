-- The log is what was accepted, one row a request. `prev` is the same session's row before, so that a session is read
-- backwards from its head: an index on the log would make every commit slower the more there is.
CREATE TABLE log (
    id      INTEGER PRIMARY KEY,
    session INTEGER NOT NULL,
    prev    INTEGER,
    at      REAL NOT NULL,
    events  INTEGER NOT NULL,
    body    BLOB NOT NULL
);

-- `made` counts the session's spans that went into the outbox: a replay of its log leaves out as many.
-- `due` is when time next does something to it; NULL when it is over. `events` were accepted, and `mapped` of them are in
-- spans that were made: all, when it is over.
CREATE TABLE sessions (
    no         INTEGER PRIMARY KEY,
    id         TEXT NOT NULL UNIQUE,
    head       INTEGER,
    made       INTEGER NOT NULL DEFAULT 0,
    due        REAL,
    started_at REAL NOT NULL,
    status     TEXT NOT NULL DEFAULT 'open',
    summary    BLOB,
    events     INTEGER NOT NULL DEFAULT 0,
    mapped     INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX sessions_open ON sessions (no) WHERE due IS NOT NULL;

-- Spans on their way, each an encoded request. AUTOINCREMENT, or ids would restart when it empties.
CREATE TABLE outbox (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    session INTEGER NOT NULL,
    body    BLOB NOT NULL
);

CREATE INDEX outbox_by_session ON outbox (session);

CREATE TABLE dead_letters (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    session INTEGER NOT NULL,
    body    BLOB NOT NULL,
    reason  TEXT NOT NULL,
    at      REAL NOT NULL DEFAULT ((julianday('now') - 2440587.5) * 86400000.0)
);

CREATE INDEX dead_letters_by_session ON dead_letters (session);

-- accepted = mapped + erased + what open sessions hold (`events` - `mapped`, and the log's rows past `flushed`);
-- made = delivered + dropped + rows of outbox + dead (rows of dead_letters), at every commit.
-- `flushed`: the last row of the log that the table of sessions takes into account. `last_at` (ms): the time up to
-- which the spans were made; it never goes back. `last_log`, `last_session`: those let go of, whose numbers are not given again.
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO counters VALUES ('accepted', 0), ('mapped', 0), ('erased', 0),
    ('made', 0), ('delivered', 0), ('dead', 0), ('dropped', 0), ('flushed', 0),
    ('last_at', 0), ('last_log', 0), ('last_session', 0);
