-- For tables without `seq` and `xid`, which are read through a replication slot only.
ALTER TABLE outbox.relay ADD COLUMN lsn pg_lsn;

COMMENT ON COLUMN outbox.relay.lsn IS 'without polling: every event committed before this place in the log is done';

-- An event that is set aside there may have no row to be read again.
ALTER TABLE outbox.parked
    ADD COLUMN type               text,
    ADD COLUMN payload            bytea,
    ADD COLUMN headers            jsonb,
    ADD COLUMN tracingspancontext text,
    ADD COLUMN key_seq            bigint,
    ADD COLUMN created_at         timestamptz;

COMMENT ON COLUMN outbox.parked.type IS 'NULL: the event is read from its table by seq, and the columns after this are not used';
