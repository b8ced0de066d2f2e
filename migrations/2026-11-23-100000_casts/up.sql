-- What makes typed columns out of texts. Redis knows only strings, so every cast may meet anything: where a text does
-- not fit, the column is NULL. A row is never refused for it.
--
-- Generated columns want immutable functions. Bodies are bound to their functions when they are made (RETURN ...), or
-- use pg_catalog alone, so that a restore with an empty search_path computes the same.

DO $$
BEGIN
    IF pg_catalog.current_setting('server_encoding') <> 'UTF8' THEN
        RAISE EXCEPTION 'the database must have the encoding UTF8, not %', pg_catalog.current_setting('server_encoding');
    END IF;
END
$$;

CREATE FUNCTION parallax_short(value text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN pg_catalog.octet_length(value) BETWEEN 1 AND 256 THEN value END;
COMMENT ON FUNCTION parallax_short(text) IS
    'A text that an index can hold: NULL when it is empty or above 256 bytes, as no id or name of the relay is.';

CREATE FUNCTION parallax_bigint(value text) RETURNS bigint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE
        -- A few digits, as in every counter of the relay: a third of the price of a pattern.
        WHEN pg_catalog.octet_length(value) BETWEEN 1 AND 18 AND pg_catalog.translate(value, '0123456789', '') = ''
            THEN value::bigint
        WHEN value ~ '^[+-]?[0-9]{1,18}$' THEN value::bigint
        WHEN value ~ '^[+-]?[0-9]{19}$' AND value::numeric BETWEEN -9223372036854775808 AND 9223372036854775807
            THEN value::bigint
    END;
COMMENT ON FUNCTION parallax_bigint(text) IS 'A whole number of 64 bits; NULL for anything else.';

CREATE FUNCTION parallax_numeric(value text) RETURNS numeric
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE
        WHEN pg_catalog.octet_length(value) BETWEEN 1 AND 40 AND pg_catalog.translate(value, '0123456789', '') = ''
            THEN value::numeric
        WHEN value ~ '^[+-]?(?:[0-9]{1,40}(?:\.[0-9]{0,60})?|\.[0-9]{1,60})(?:[eE][+-]?[0-9]{1,2})?$' THEN value::numeric
    END;
COMMENT ON FUNCTION parallax_numeric(text) IS
    'An exact decimal number of at most 40 digits before the point and an exponent below 100; NULL for anything else, NaN and Infinity included.';

CREATE FUNCTION parallax_double(value text) RETURNS double precision
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE
        WHEN pg_catalog.octet_length(value) BETWEEN 1 AND 15 AND pg_catalog.translate(value, '0123456789', '') = ''
            THEN value::double precision
        WHEN value IN ('inf', '+inf') THEN 'Infinity'::double precision
        WHEN value = '-inf' THEN '-Infinity'::double precision
        WHEN value ~ '^[+-]?[0-9]{1,40}(?:\.[0-9]{1,60})?(?:[eE][+-]?[0-9]{1,3})?$' THEN
            CASE
                WHEN pg_catalog.abs(value::numeric) BETWEEN 1e-300 AND 1e308 OR value::numeric = 0
                    THEN value::double precision
            END
    END;
COMMENT ON FUNCTION parallax_double(text) IS 'A sorted set''s score as Redis writes it; NULL for anything else. Not for money.';

CREATE FUNCTION parallax_boolean(value text) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN value IN ('true', '1') THEN true WHEN value IN ('false', '0') THEN false END;
COMMENT ON FUNCTION parallax_boolean(text) IS 'true and 1, false and 0; NULL for anything else.';

CREATE FUNCTION parallax_jsonb(value text) RETURNS jsonb
    LANGUAGE plpgsql IMMUTABLE
AS $$
BEGIN
    -- What cannot be JSON at first sight does not pay for a subtransaction.
    IF value IS NULL OR value !~ '^[[:space:]]*["{[0-9tfn-]' THEN
        RETURN NULL;
    END IF;
    BEGIN
        RETURN value::jsonb;
    EXCEPTION WHEN OTHERS THEN
        RETURN NULL;
    END;
END
$$;
COMMENT ON FUNCTION parallax_jsonb(text) IS
    'The JSON that the text spells; NULL where it spells none, or one that jsonb cannot hold (a NUL, a number of a million digits).';

CREATE FUNCTION parallax_text(doc jsonb) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN pg_catalog.jsonb_typeof(doc) = 'string' THEN doc #>> '{}' END;
COMMENT ON FUNCTION parallax_text(jsonb) IS 'The string of a string record; NULL for the document of any other type.';

-- The pattern has no groups to capture: those cost fifty times as much as the match. After it, the cast can fail for
-- nothing but a day that its month does not have, and depends on no setting of the session.
CREATE FUNCTION parallax_timestamptz(value text) RETURNS timestamptz
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
AS $$
BEGIN
    IF value ~ '^[0-9]{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01])[T ](?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,9})?(?:Z|[+-](?:0[0-9]|1[0-4]):?[0-5][0-9])$' THEN
        IF value LIKE '0000%' OR (substr(value, 9, 2) > '28' AND substr(value, 6, 2)::integer <> extract(month FROM
            make_date(substr(value, 1, 4)::integer, substr(value, 6, 2)::integer, 1) + (substr(value, 9, 2)::integer - 1)))
        THEN
            RETURN NULL;
        END IF;
        RETURN value::timestamptz;
    ELSIF value ~ '^[0-9]{11,14}$' THEN
        RETURN to_timestamp(value::bigint / 1000) + (value::bigint % 1000) * interval '1 millisecond';
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION parallax_timestamptz(text) IS
    'A moment that is the same everywhere: ISO 8601 with Z or an offset, or milliseconds since 1970; NULL for anything else, a local time included.';
