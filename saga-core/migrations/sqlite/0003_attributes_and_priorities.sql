-- What users find sagas by. Kept as long as the start row.
CREATE TABLE saga_attribute (
    run   BLOB NOT NULL,
    name  TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (run, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX saga_attribute_value ON saga_attribute (name, value, run);

-- Who goes first: 0 is normal. A claim looks at each level by itself, so that a level that is full does not hide
-- the others.
ALTER TABLE saga_live ADD COLUMN priority INTEGER NOT NULL DEFAULT 0;
CREATE INDEX saga_live_due_by_priority ON saga_live (fingerprint, priority, due)
    WHERE owner IS NULL AND due IS NOT NULL;
DROP INDEX saga_live_due;
