-- Ghosts that are settled: both stores were compared since, and hold the same of that record.

ALTER TABLE ghosts ADD COLUMN settled_at timestamptz;
COMMENT ON COLUMN ghosts.settled_at IS 'When a comparison found the record the same in both stores again; NULL until then.';
CREATE INDEX ghosts_unsettled ON ghosts (kind) WHERE settled_at IS NULL;
