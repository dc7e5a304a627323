-- One row per idempotency key. `id` is an HMAC: neither key nor scope can be read from it.
-- action, undo: 0 none, 1 running, 2 applied, 3 rejected.
-- A running row without lease_until is locked for ever; one with expires_at does not exist.
CREATE TABLE idempotency.keys (
    id            bytea       PRIMARY KEY CHECK (octet_length(id) = 32),
    action        smallint    NOT NULL CHECK (action BETWEEN 0 AND 3),
    undo          smallint    NOT NULL CHECK (undo BETWEEN 0 AND 3),
    refused       boolean     NOT NULL,
    doubt         boolean     NOT NULL,
    running       boolean     NOT NULL CHECK (running = (action = 1 OR undo = 1)),
    stamp         bytea       NOT NULL CHECK (octet_length(stamp) = 16),
    fence         bigint      NOT NULL,
    action_print  bytea,
    undo_print    bytea,
    action_answer bytea,
    undo_answer   bytea,
    operation     text,
    phase         text,
    memo          bytea,
    created_at    timestamptz NOT NULL,
    lease_until   timestamptz,
    expires_at    timestamptz CHECK (NOT running OR expires_at IS NULL),
    -- The transaction that holds a fused claim: only that one may settle it.
    xid           xid8
) WITH (fillfactor = 80);

CREATE INDEX keys_over ON idempotency.keys (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX keys_unfinished ON idempotency.keys (operation, lease_until) WHERE running AND operation IS NOT NULL;
