-- What a consumer group has applied, changed only inside its business transactions.
CREATE TABLE outbox.inbox_partition (
    consumer_group text NOT NULL,
    topic          text NOT NULL,
    partition      integer NOT NULL,
    epoch          bigint NOT NULL,
    owner          text NOT NULL,
    next_offset    bigint,
    last_id        uuid,
    PRIMARY KEY (consumer_group, topic, partition)
) WITH (fillfactor = 50);

COMMENT ON COLUMN outbox.inbox_partition.epoch IS 'rises with every assignment; an owner of an older epoch applies nothing';
COMMENT ON COLUMN outbox.inbox_partition.last_id IS 'the event at next_offset - 1: another one there means another topic';

CREATE TABLE outbox.inbox_seen (
    consumer_group text NOT NULL,
    id             uuid NOT NULL,
    seen_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (consumer_group, id)
);
CREATE INDEX inbox_seen_at ON outbox.inbox_seen (seen_at);

CREATE TABLE outbox.inbox_key (
    consumer_group text NOT NULL,
    source         text NOT NULL,
    key            text NOT NULL,
    last_seq       bigint NOT NULL,
    PRIMARY KEY (consumer_group, source, key)
) WITH (fillfactor = 50);

-- A record that cannot be applied, and the later records of its key, until a person decides.
CREATE TABLE outbox.inbox_parked (
    consumer_group text NOT NULL,
    topic          text NOT NULL,
    partition      integer NOT NULL,
    record_offset  bigint NOT NULL,
    key            bytea,
    payload        bytea,
    headers        jsonb NOT NULL,
    reason         text NOT NULL,
    released       boolean NOT NULL DEFAULT false,
    parked_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (consumer_group, topic, partition, record_offset)
);
