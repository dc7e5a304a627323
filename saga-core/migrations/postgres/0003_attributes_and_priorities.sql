-- What users find sagas by. Kept as long as the start row.
CREATE TABLE saga.attribute (
    run   uuid NOT NULL,
    name  text COLLATE "C" NOT NULL,
    value text COLLATE "C" NOT NULL,
    PRIMARY KEY (run, name)
);
CREATE INDEX attribute_value ON saga.attribute (name, value, run);

-- Who goes first: 0 is normal. A claim looks at each level by itself, so that a level that is full does not hide
-- the others.
ALTER TABLE saga.live ADD COLUMN priority smallint NOT NULL DEFAULT 0;
CREATE INDEX live_due_by_priority ON saga.live (fingerprint, priority, due)
    WHERE owner IS NULL AND due IS NOT NULL;
DROP INDEX saga.live_due;
