-- What more is known of a capture gap: of a bypass, which commands, and how many of each.

ALTER TABLE capture_gaps ADD COLUMN detail text NOT NULL DEFAULT '';
COMMENT ON COLUMN capture_gaps.detail IS 'What more is known of it: of a bypass, which commands, and how many of each. Never a key.';
