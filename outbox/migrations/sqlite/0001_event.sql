-- Events wait here until Kafka has acknowledged them. AUTOINCREMENT: a seq is never given twice,
-- so `seq > cursor` finds every later event.
CREATE TABLE outbox_event (
    seq                INTEGER PRIMARY KEY AUTOINCREMENT,
    id                 TEXT NOT NULL,
    aggregatetype      TEXT NOT NULL,
    aggregateid        TEXT NOT NULL,
    type               TEXT NOT NULL,
    payload            BLOB,
    headers            TEXT,
    tracingspancontext TEXT,
    key_seq            INTEGER,
    created_at         INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER))
);

-- The last number drawn per key by writers that asked for a sequence.
CREATE TABLE outbox_key (
    aggregatetype TEXT NOT NULL,
    aggregateid   TEXT NOT NULL,
    last_seq      INTEGER NOT NULL,
    PRIMARY KEY (aggregatetype, aggregateid)
) WITHOUT ROWID;
