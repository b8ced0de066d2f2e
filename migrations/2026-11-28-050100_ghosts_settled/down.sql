DROP INDEX ghosts_unsettled;
ALTER TABLE ghosts DROP COLUMN settled_at;
