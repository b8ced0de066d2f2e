ALTER TABLE capture_gaps DROP COLUMN detail;
