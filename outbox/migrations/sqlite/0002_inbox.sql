-- What a consumer group has applied, changed only inside its business transactions.
CREATE TABLE inbox_partition (
    consumer_group TEXT NOT NULL,
    topic          TEXT NOT NULL,
    partition      INTEGER NOT NULL,
    epoch          INTEGER NOT NULL,
    owner          TEXT NOT NULL,
    next_offset    INTEGER,
    last_id        TEXT,
    PRIMARY KEY (consumer_group, topic, partition)
) WITHOUT ROWID;

CREATE TABLE inbox_seen (
    consumer_group TEXT NOT NULL,
    id             TEXT NOT NULL,
    seen_at        INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)),
    PRIMARY KEY (consumer_group, id)
) WITHOUT ROWID;
CREATE INDEX inbox_seen_at ON inbox_seen (seen_at);

CREATE TABLE inbox_key (
    consumer_group TEXT NOT NULL,
    source         TEXT NOT NULL,
    key            TEXT NOT NULL,
    last_seq       INTEGER NOT NULL,
    PRIMARY KEY (consumer_group, source, key)
) WITHOUT ROWID;

-- A record that cannot be applied, and the later records of its key, until a person decides.
CREATE TABLE inbox_parked (
    consumer_group TEXT NOT NULL,
    topic          TEXT NOT NULL,
    partition      INTEGER NOT NULL,
    record_offset  INTEGER NOT NULL,
    key            BLOB,
    payload        BLOB,
    headers        TEXT NOT NULL,
    reason         TEXT NOT NULL,
    released       INTEGER NOT NULL DEFAULT 0,
    parked_at      INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)),
    PRIMARY KEY (consumer_group, topic, partition, record_offset)
);
