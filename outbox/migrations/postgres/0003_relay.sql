-- One row per outbox table: which relay may acknowledge, and how far it came.
CREATE TABLE outbox.relay (
    outbox            text PRIMARY KEY,
    epoch             bigint NOT NULL DEFAULT 0,
    holder            text,
    renewals          bigint NOT NULL DEFAULT 0,
    system_identifier text,
    base              pg_snapshot,
    tick              pg_snapshot,
    tick_seq          bigint NOT NULL DEFAULT 0,
    tail              jsonb NOT NULL DEFAULT '{}',
    acknowledged_at   timestamptz
) WITH (fillfactor = 50);

COMMENT ON COLUMN outbox.relay.epoch IS 'rises with every takeover; an acknowledgement of an older epoch changes nothing';
COMMENT ON COLUMN outbox.relay.base IS 'every event visible in this snapshot is done';
COMMENT ON COLUMN outbox.relay.tick IS 'events visible here, but not in base, are done up to tick_seq';
COMMENT ON COLUMN outbox.relay.tail IS 'per topic and partition: the first Kafka offset that may hold an unacknowledged event';

-- Events that Kafka refused, and the later events of their keys. Their rows stay in the outbox.
CREATE TABLE outbox.parked (
    outbox        text NOT NULL,
    seq           bigint NOT NULL,
    id            uuid NOT NULL,
    aggregatetype text NOT NULL,
    aggregateid   text NOT NULL,
    reason        text NOT NULL,
    released      boolean NOT NULL DEFAULT false,
    parked_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (outbox, seq)
);
CREATE INDEX parked_key ON outbox.parked (outbox, aggregatetype, aggregateid, seq);
