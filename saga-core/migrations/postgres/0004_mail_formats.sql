-- What mail is written in. Sagas with unread mail in a format that a worker does not know are left to newer ones.
ALTER TABLE saga.mail ADD COLUMN format smallint NOT NULL DEFAULT 1;
