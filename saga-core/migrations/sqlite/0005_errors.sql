-- The fingerprint of what a saga suffers from: those that suffer from the same are found by it.
ALTER TABLE saga_live ADD COLUMN error TEXT;
CREATE INDEX saga_live_error ON saga_live (error, run) WHERE error IS NOT NULL;
