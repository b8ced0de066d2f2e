DROP TABLE event_logs;
DROP FUNCTION parallax_entry(jsonb);
DROP TABLE elements;
DROP TABLE collections;
