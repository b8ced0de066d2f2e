DROP INDEX jobs_one;
ALTER TABLE jobs
    DROP COLUMN spec, DROP COLUMN place, DROP COLUMN progress, DROP COLUMN origin, DROP COLUMN holder,
    DROP COLUMN lease_until, DROP COLUMN wish, DROP COLUMN report,
    ADD COLUMN cursor text,
    ADD COLUMN run_id text,
    ADD COLUMN done bigint NOT NULL DEFAULT 0,
    ADD COLUMN total bigint;
