-- The fingerprint of what a saga suffers from: those that suffer from the same are found by it.
ALTER TABLE saga.live ADD COLUMN error text COLLATE "C";
CREATE INDEX live_error ON saga.live (error, run) WHERE error IS NOT NULL;
