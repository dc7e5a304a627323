-- Events wait here until Kafka has acknowledged them. The first six columns are Debezium's outbox
-- table; `seq` and `xid` are what a relay that polls needs to lose nothing.
CREATE TABLE outbox.event (
    seq                bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id                 uuid NOT NULL,
    aggregatetype      text NOT NULL,
    aggregateid        text NOT NULL,
    type               text NOT NULL,
    payload            bytea,
    headers            jsonb,
    tracingspancontext text,
    key_seq            bigint,
    created_at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    xid                xid8 NOT NULL DEFAULT pg_current_xact_id()
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000);

CREATE INDEX event_xid ON outbox.event (xid);

COMMENT ON COLUMN outbox.event.seq IS 'order within a key whose writers are serialised; not the order of commits';
COMMENT ON COLUMN outbox.event.payload IS 'published as it is; NULL is a tombstone';
COMMENT ON COLUMN outbox.event.key_seq IS 'gapless number within the key, where the writer asked for one';
COMMENT ON COLUMN outbox.event.xid IS 'the inserting top-level transaction, which snapshots are compared with';

-- The last number drawn per key by writers that asked for a sequence; its row lock serialises them.
CREATE TABLE outbox.key (
    aggregatetype text NOT NULL,
    aggregateid   text NOT NULL,
    last_seq      bigint NOT NULL,
    PRIMARY KEY (aggregatetype, aggregateid)
) WITH (fillfactor = 50);
