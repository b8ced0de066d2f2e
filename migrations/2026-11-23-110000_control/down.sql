DROP TABLE proofs;
DROP TABLE jobs;
DROP TABLE log_gaps;
DROP TABLE dead_letters;
DROP TABLE mismatches;
DROP TABLE flag_changes;
DROP TABLE heartbeat;
DROP TABLE control;
