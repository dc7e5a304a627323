-- Which relay may acknowledge, and how far it came.
CREATE TABLE outbox_relay (
    outbox          TEXT PRIMARY KEY,
    epoch           INTEGER NOT NULL DEFAULT 0,
    holder          TEXT,
    renewals        INTEGER NOT NULL DEFAULT 0,
    cursor          INTEGER NOT NULL DEFAULT 0,
    tail            TEXT NOT NULL DEFAULT '{}',
    acknowledged_at INTEGER
);

-- Events that Kafka refused, and the later events of their keys. Their rows stay in the outbox.
CREATE TABLE outbox_parked (
    outbox        TEXT NOT NULL,
    seq           INTEGER NOT NULL,
    id            TEXT NOT NULL,
    aggregatetype TEXT NOT NULL,
    aggregateid   TEXT NOT NULL,
    reason        TEXT NOT NULL,
    released      INTEGER NOT NULL DEFAULT 0,
    parked_at     INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)),
    PRIMARY KEY (outbox, seq)
);
CREATE INDEX outbox_parked_key ON outbox_parked (outbox, aggregatetype, aggregateid, seq);
