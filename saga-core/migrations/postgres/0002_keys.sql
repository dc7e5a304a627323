-- Keyed sagas: of all that were started under one key, one is under way at a time.

-- One row per key that is held, or that others wait for. `run` is written by compare-and-set only.
CREATE TABLE saga.key (
    key    text   COLLATE "C" PRIMARY KEY,
    -- Who holds it; nobody between a release and the next turn.
    run    uuid,
    -- Moved on by whoever begins to wait: a row is swept only if nobody has meanwhile.
    waited bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 80, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX key_free ON saga.key (key) WHERE run IS NULL;

-- In which order sagas wait for their keys.
CREATE SEQUENCE saga.turn AS bigint CACHE 1;

ALTER TABLE saga.live
    ADD COLUMN key   text COLLATE "C",
    -- While it does not hold its key: its turn, 0 as long as no claim has seen it.
    ADD COLUMN turn  bigint,
    -- When it stops waiting for its key.
    ADD COLUMN until timestamptz;
CREATE INDEX live_turn ON saga.live (key, turn) WHERE turn IS NOT NULL;
CREATE INDEX live_unseen ON saga.live (since, run) WHERE turn = 0;
