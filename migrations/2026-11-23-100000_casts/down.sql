DROP FUNCTION parallax_timestamptz(text);
DROP FUNCTION parallax_text(jsonb);
DROP FUNCTION parallax_jsonb(text);
DROP FUNCTION parallax_boolean(text);
DROP FUNCTION parallax_double(text);
DROP FUNCTION parallax_numeric(text);
DROP FUNCTION parallax_bigint(text);
DROP FUNCTION parallax_short(text);
