-- Begins a claim within the caller's transaction: takes the key's lock, which the transaction holds to its end, and
-- answers the transaction's number if the key is new. Null: another transaction holds the lock, or there is a row.
--
-- A function, because the row is to be looked for once the lock is held: a volatile one has a new snapshot for each of
-- its statements, where the parts of a single statement share the one of its beginning.
CREATE FUNCTION idempotency.claim(key bytea, lock bigint) RETURNS text LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF NOT pg_try_advisory_xact_lock(lock) OR EXISTS (SELECT FROM idempotency.keys WHERE id = key) THEN
        RETURN NULL;
    END IF;
    RETURN pg_current_xact_id()::text;
END $$;
