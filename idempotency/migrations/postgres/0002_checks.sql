-- Postgres reads and prepares a table's checks anew for every statement that writes, which cost each claim and each
-- completion a good part of its time. They guarded against mistakes of this crate's own, for which it has tests.
DO $$
DECLARE
    own record;
BEGIN
    FOR own IN
        SELECT conname FROM pg_constraint
        WHERE conrelid = 'idempotency.keys'::regclass AND contype = 'c'
    LOOP
        EXECUTE format('ALTER TABLE idempotency.keys DROP CONSTRAINT %I', own.conname);
    END LOOP;
END $$;
