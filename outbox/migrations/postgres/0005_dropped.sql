-- A dropped event is remembered for as long as it may be read again.
ALTER TABLE outbox.parked ADD COLUMN dropped pg_lsn;

COMMENT ON COLUMN outbox.parked.dropped IS
    'where the log ended when an operator dropped the event, which was committed before; NULL: it waits for a decision';

CREATE INDEX parked_dropped ON outbox.parked (outbox) WHERE dropped IS NOT NULL;
