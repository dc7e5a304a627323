-- The tables of saga-core in Postgres. `saga` is the schema's name; `migrate` creates it.
--
-- No constraint and no join of the hot path spans two sagas, and what belongs to one saga has a primary key
-- that begins with its run id: the schema can be spread by it. Workers, manifests and the ids that users give
-- (the unique key of `start`) are the exceptions.

-- One row per incarnation of a worker. A commit counts only while its worker's row has its epoch. It is
-- updated at every renewal and locked by every batch, so its pages keep room for new versions.
CREATE TABLE saga.worker (
    id         uuid        PRIMARY KEY,
    label      text        NOT NULL,
    epoch      bigint      NOT NULL DEFAULT 1,
    renewals   bigint      NOT NULL DEFAULT 0,
    lease_ms   bigint      NOT NULL,
    drained    boolean     NOT NULL DEFAULT false,
    joined_at  timestamptz NOT NULL DEFAULT now(),
    renewed_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 20, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_scale_factor = 0);

-- Definitions as data.
CREATE TABLE saga.manifest (
    fingerprint uuid    PRIMARY KEY,
    definition  text    NOT NULL,
    version     integer NOT NULL,
    plan        text    NOT NULL
);

-- One row per saga that was ever started; it outlives the journal, so that a late start runs nothing twice.
-- It is updated once, at the end: the room left in its pages keeps that update out of the indexes.
CREATE TABLE saga.start (
    run         uuid        PRIMARY KEY,
    definition  text        COLLATE "C" NOT NULL,
    version     integer     NOT NULL,
    fingerprint uuid        NOT NULL,
    saga        text        COLLATE "C" NOT NULL,
    digest      bytea       NOT NULL,
    started_at  timestamptz NOT NULL DEFAULT now(),
    ended       text,
    ended_at    timestamptz,
    CONSTRAINT start_saga_key UNIQUE (definition, saga)
) WITH (fillfactor = 85);

-- One row per saga in flight. It goes when the saga ends, so what is finished costs nothing here.
CREATE TABLE saga.live (
    run         uuid        PRIMARY KEY,
    fingerprint uuid        NOT NULL,
    owner       uuid,
    state       text        NOT NULL,
    due         timestamptz,
    since       timestamptz NOT NULL DEFAULT now(),
    -- The claim that gave it to its owner: a claim whose answer was lost is answered again by this.
    claimed     bigint
) WITH (fillfactor = 80, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX live_due ON saga.live (fingerprint, due) WHERE owner IS NULL AND due IS NOT NULL;
CREATE INDEX live_owner ON saga.live (owner) WHERE owner IS NOT NULL;
CREATE INDEX live_blocked ON saga.live (run) WHERE state = 'blocked';

-- One row per commit. The primary key is the compare-and-set.
CREATE TABLE saga.journal (
    run    uuid        NOT NULL,
    number integer     NOT NULL,
    worker uuid,
    at     timestamptz NOT NULL DEFAULT now(),
    body   text        NOT NULL,
    PRIMARY KEY (run, number)
);

-- What others tell a saga. A row stays when it is consumed, so that posting it again changes nothing.
CREATE TABLE saga.mail (
    run       uuid        NOT NULL,
    id        uuid        NOT NULL,
    body      text        NOT NULL,
    posted_at timestamptz NOT NULL DEFAULT now(),
    -- The number of the commit that consumed it; -1 where the saga's end answered it.
    consumed  integer,
    PRIMARY KEY (run, id)
) WITH (fillfactor = 80);
CREATE INDEX mail_unread ON saga.mail (run) WHERE consumed IS NULL;
