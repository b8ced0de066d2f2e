DROP INDEX proofs_version;
DROP TABLE capture_gaps;
