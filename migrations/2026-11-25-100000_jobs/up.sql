-- One runner of jobs in a fleet: who holds it and until when, what was asked for, and where it goes on.

ALTER TABLE jobs
    DROP COLUMN cursor,
    DROP COLUMN run_id,
    DROP COLUMN done,
    DROP COLUMN total,
    ADD COLUMN spec jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN place jsonb,
    ADD COLUMN progress jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN origin text NOT NULL DEFAULT 'sidecar',
    ADD COLUMN holder text NOT NULL DEFAULT '',
    ADD COLUMN lease_until timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN wish text,
    ADD COLUMN report jsonb;
COMMENT ON COLUMN jobs.state IS 'running, paused, done, failed or cancelled.';
COMMENT ON COLUMN jobs.spec IS 'What was asked for: a job that finds its like left behind goes on with it.';
COMMENT ON COLUMN jobs.place IS 'Where it goes on. The cursor of a scan in it names the Redis server that it belongs to.';
COMMENT ON COLUMN jobs.progress IS 'Keys seen, records done, their bytes, the keys there were at the start, the rate, and why it waits.';
COMMENT ON COLUMN jobs.origin IS 'sidecar or command: what a dead sidecar left is taken up by another one, a command by its like.';
COMMENT ON COLUMN jobs.holder IS 'The process that runs it; nobody else writes to the row while the lease holds.';
COMMENT ON COLUMN jobs.wish IS 'pause, resume or cancel, until the holder has heeded it.';
COMMENT ON COLUMN jobs.report IS 'What it found, at its end.';
CREATE UNIQUE INDEX jobs_one ON jobs ((true)) WHERE state IN ('running', 'paused');
COMMENT ON INDEX jobs_one IS 'One job at a time in the whole fleet.';
