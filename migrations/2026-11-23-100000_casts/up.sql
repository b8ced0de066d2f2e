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
        WHEN value ~ '^[+-]?[0-9]{1,18}$' THEN value::bigint
        WHEN value ~ '^[+-]?[0-9]{19}$' AND value::numeric BETWEEN -9223372036854775808 AND 9223372036854775807
            THEN value::bigint
    END;
COMMENT ON FUNCTION parallax_bigint(text) IS 'A whole number of 64 bits; NULL for anything else.';

CREATE FUNCTION parallax_numeric(value text) RETURNS numeric
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE
        WHEN value ~ '^[+-]?([0-9]{1,40}(\.[0-9]{0,60})?|\.[0-9]{1,60})([eE][+-]?[0-9]{1,2})?$' THEN value::numeric
    END;
COMMENT ON FUNCTION parallax_numeric(text) IS
    'An exact decimal number of at most 40 digits before the point and an exponent below 100; NULL for anything else, NaN and Infinity included.';

CREATE FUNCTION parallax_double(value text) RETURNS double precision
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE
        WHEN value IN ('inf', '+inf') THEN 'Infinity'::double precision
        WHEN value = '-inf' THEN '-Infinity'::double precision
        WHEN value ~ '^[+-]?[0-9]{1,40}(\.[0-9]{1,60})?([eE][+-]?[0-9]{1,3})?$' THEN
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

CREATE FUNCTION parallax_fields(doc jsonb) RETURNS jsonb
    LANGUAGE sql IMMUTABLE
    RETURN CASE pg_catalog.jsonb_typeof(doc)
        WHEN 'object' THEN doc
        WHEN 'string' THEN parallax_jsonb(doc #>> '{}')
    END;
COMMENT ON FUNCTION parallax_fields(jsonb) IS
    'The fields of a record, whether it is a hash or one JSON text.';

CREATE FUNCTION parallax_timestamptz(value text) RETURNS timestamptz
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
AS $$
DECLARE
    part text[];
    shift interval;
BEGIN
    -- Text that says no moment, most often the empty string of an unset field, is dismissed without a closer look.
    IF value IS NULL OR value !~ '^[0-9]{4}' OR octet_length(value) > 40 THEN
        RETURN NULL;
    END IF;
    IF value ~ '^[0-9]{11,14}$' THEN
        RETURN pg_catalog.timezone('UTC', timestamp '1970-01-01 00:00:00'
            + (value::bigint / 1000) * interval '1 second' + (value::bigint % 1000) * interval '1 millisecond');
    END IF;
    part := regexp_match(value, '^([0-9]{4})-([0-9]{2})-([0-9]{2})[T ]([0-9]{2}):([0-9]{2}):([0-9]{2}(?:\.[0-9]{1,9})?)(Z|[+-][0-9]{2}:?[0-9]{2})$');
    IF part IS NULL THEN
        RETURN NULL;
    END IF;
    shift := CASE WHEN part[7] = 'Z' THEN interval '0' ELSE
        (left(part[7], 3)::integer * 60 + (left(part[7], 1) || right(part[7], 2))::integer) * interval '1 minute' END;
    IF part[1]::integer < 1 OR part[2]::integer NOT BETWEEN 1 AND 12 OR part[3]::integer NOT BETWEEN 1 AND 31
        OR part[4]::integer > 23 OR part[5]::integer > 59 OR part[6]::double precision >= 60
        OR (part[3]::integer > 28 AND part[3]::integer > EXTRACT(day FROM
            make_date(part[1]::integer, part[2]::integer, 1) + interval '1 month - 1 day'))
    THEN
        RETURN NULL;
    END IF;
    RETURN pg_catalog.timezone('UTC', make_timestamp(part[1]::integer, part[2]::integer, part[3]::integer,
        part[4]::integer, part[5]::integer, part[6]::double precision) - shift);
END
$$;
COMMENT ON FUNCTION parallax_timestamptz(text) IS
    'A moment that is the same everywhere: ISO 8601 with Z or an offset, or milliseconds since 1970; NULL for anything else, a local time included.';
