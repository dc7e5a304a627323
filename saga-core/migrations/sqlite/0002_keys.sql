-- Keyed sagas: of all that were started under one key, one is under way at a time.

-- One row per key that is held, or that others wait for.
CREATE TABLE saga_key (
    key TEXT NOT NULL PRIMARY KEY,
    -- Who holds it; nobody between a release and the next turn.
    run BLOB
) STRICT, WITHOUT ROWID;
CREATE INDEX saga_key_free ON saga_key (key) WHERE run IS NULL;

ALTER TABLE saga_live ADD COLUMN key TEXT;
-- While it does not hold its key: its turn, 0 as long as no claim has seen it.
ALTER TABLE saga_live ADD COLUMN turn INTEGER;
-- When it stops waiting for its key.
ALTER TABLE saga_live ADD COLUMN until INTEGER;
CREATE INDEX saga_live_turn ON saga_live (key, turn) WHERE turn IS NOT NULL;
CREATE INDEX saga_live_unseen ON saga_live (since, run) WHERE turn = 0;
