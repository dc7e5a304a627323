-- One row per idempotency key. `id` is an HMAC: neither key nor scope can be read from it.
-- action, undo: 0 none, 1 running, 2 applied, 3 rejected. Times are microseconds since 1970.
-- A running row without lease_until is locked for ever; one with expires_at does not exist.
CREATE TABLE idempotency_keys (
    id            BLOB    PRIMARY KEY NOT NULL CHECK (length(id) = 32),
    action        INTEGER NOT NULL CHECK (action BETWEEN 0 AND 3),
    undo          INTEGER NOT NULL CHECK (undo BETWEEN 0 AND 3),
    refused       INTEGER NOT NULL,
    doubt         INTEGER NOT NULL,
    running       INTEGER NOT NULL CHECK (running = (action = 1 OR undo = 1)),
    stamp         BLOB    NOT NULL CHECK (length(stamp) = 16),
    fence         INTEGER NOT NULL,
    action_print  BLOB,
    undo_print    BLOB,
    action_answer BLOB,
    undo_answer   BLOB,
    operation     TEXT,
    phase         TEXT,
    memo          BLOB,
    created_at    INTEGER NOT NULL,
    lease_until   INTEGER,
    expires_at    INTEGER CHECK (NOT running OR expires_at IS NULL)
) WITHOUT ROWID;

CREATE INDEX idempotency_keys_over ON idempotency_keys (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX idempotency_keys_unfinished ON idempotency_keys (operation, lease_until) WHERE operation IS NOT NULL;
