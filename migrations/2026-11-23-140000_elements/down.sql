DROP TABLE event_logs;
DROP FUNCTION parallax_parse_entry();
DROP TABLE elements;
DROP TABLE collections;
