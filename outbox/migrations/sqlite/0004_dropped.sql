-- A dropped event is remembered for as long as it may be read again.
ALTER TABLE outbox_parked ADD COLUMN dropped INTEGER NOT NULL DEFAULT 0;
