-- The tables of saga-core in SQLite. Ids are 16-byte blobs; times are microseconds since 1970, UTC.

-- One row per incarnation of a worker. A commit counts only while its worker's row has its epoch.
CREATE TABLE saga_worker (
    id         BLOB    NOT NULL PRIMARY KEY,
    label      TEXT    NOT NULL,
    epoch      INTEGER NOT NULL DEFAULT 1,
    renewals   INTEGER NOT NULL DEFAULT 0,
    lease_ms   INTEGER NOT NULL,
    drained    INTEGER NOT NULL DEFAULT 0,
    joined_at  INTEGER NOT NULL,
    renewed_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Definitions as data.
CREATE TABLE saga_manifest (
    fingerprint BLOB    NOT NULL PRIMARY KEY,
    definition  TEXT    NOT NULL,
    version     INTEGER NOT NULL,
    plan        TEXT    NOT NULL
) STRICT, WITHOUT ROWID;

-- One row per saga that was ever started; it outlives the journal, so that a late start runs nothing twice.
CREATE TABLE saga_start (
    run         BLOB    NOT NULL PRIMARY KEY,
    definition  TEXT    NOT NULL,
    version     INTEGER NOT NULL,
    fingerprint BLOB    NOT NULL,
    saga        TEXT    NOT NULL,
    digest      BLOB    NOT NULL,
    started_at  INTEGER NOT NULL,
    ended       TEXT,
    ended_at    INTEGER,
    UNIQUE (definition, saga)
) STRICT, WITHOUT ROWID;

-- One row per saga in flight. It goes when the saga ends, so what is finished costs nothing here.
CREATE TABLE saga_live (
    run         BLOB    NOT NULL PRIMARY KEY,
    fingerprint BLOB    NOT NULL,
    owner       BLOB,
    state       TEXT    NOT NULL,
    due         INTEGER,
    since       INTEGER NOT NULL,
    -- The claim that gave it to its owner: a claim whose answer was lost is answered again by this.
    claimed     INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX saga_live_due ON saga_live (fingerprint, due) WHERE owner IS NULL AND due IS NOT NULL;
CREATE INDEX saga_live_owner ON saga_live (owner) WHERE owner IS NOT NULL;
CREATE INDEX saga_live_blocked ON saga_live (run) WHERE state = 'blocked';

-- One row per commit. The primary key is the compare-and-set. The rows stand in the order of their writing,
-- beside an index: bodies in the key's own tree would take twice the room and more than twice the time.
CREATE TABLE saga_journal (
    run    BLOB    NOT NULL,
    number INTEGER NOT NULL,
    worker BLOB,
    at     INTEGER NOT NULL,
    body   TEXT    NOT NULL,
    PRIMARY KEY (run, number)
) STRICT;

-- What others tell a saga. A row stays when it is consumed, so that posting it again changes nothing.
CREATE TABLE saga_mail (
    run       BLOB    NOT NULL,
    id        BLOB    NOT NULL,
    body      TEXT    NOT NULL,
    posted_at INTEGER NOT NULL,
    -- The number of the commit that consumed it.
    consumed  INTEGER,
    PRIMARY KEY (run, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX saga_mail_unread ON saga_mail (run) WHERE consumed IS NULL;
