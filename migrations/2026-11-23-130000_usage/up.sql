-- Usage counters as columns. Most of what they say is in the kind's name and in the id, which is the key without its
-- fixed ends: usage_key_model_daily has `{api key}:model:daily:{model}:{date}`. A model may hold colons, nothing else does.

CREATE FUNCTION parallax_usage_granularity(kind text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE
        WHEN kind LIKE '%\_hourly' THEN 'hourly'
        WHEN kind LIKE '%\_daily' THEN 'daily'
        WHEN kind LIKE '%\_weekly' THEN 'weekly'
        WHEN kind LIKE '%\_monthly' THEN 'monthly'
        WHEN kind LIKE '%\_total' THEN 'total'
    END;
COMMENT ON FUNCTION parallax_usage_granularity(text) IS 'The last word of a usage kind: hourly, daily, weekly, monthly or total.';

CREATE FUNCTION parallax_usage_scope(kind text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE
        WHEN kind LIKE 'account\_usage\_model\_%' THEN 'account_model'
        WHEN kind LIKE 'account\_usage\_%' THEN 'account'
        WHEN kind LIKE 'usage\_key\_model\_%' THEN 'api_key_model'
        WHEN kind LIKE 'usage\_model\_%' THEN 'model'
        WHEN kind LIKE 'usage\_global\_%' THEN 'global'
        WHEN kind LIKE 'usage\_%' THEN 'api_key'
    END;
COMMENT ON FUNCTION parallax_usage_scope(text) IS 'Whose usage a kind counts: api_key, account, model, api_key_model, account_model or global.';

CREATE FUNCTION parallax_usage_measure(kind text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE
        WHEN kind LIKE 'usage\_cost\_real\_%' THEN 'real_cost'
        WHEN kind LIKE 'usage\_cost\_%' THEN 'cost'
        WHEN kind LIKE 'usage\_opus\_real\_%' THEN 'opus_real_cost'
        WHEN kind LIKE 'usage\_opus\_%' THEN 'opus_cost'
        ELSE 'tokens'
    END;
COMMENT ON FUNCTION parallax_usage_measure(text) IS 'What a kind counts: tokens (and requests), or one of the costs.';

CREATE FUNCTION parallax_usage_model(kind text, id text) RETURNS text
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
AS $$
DECLARE
    model text := id;
BEGIN
    IF id LIKE '\\x%' OR strpos(kind, '_model_') = 0 THEN
        RETURN NULL;
    END IF;
    IF starts_with(kind, 'usage_key_model_') THEN
        model := substr(model, strpos(model, ':model:') + 7);
        model := substr(model, strpos(model, ':') + 1);
    ELSIF starts_with(kind, 'account_usage_model_') THEN
        model := substr(model, strpos(model, ':') + 1);
    END IF;
    model := CASE
        WHEN kind LIKE '%\_hourly' THEN left(model, -14)
        WHEN kind LIKE '%\_daily' THEN left(model, -11)
        WHEN kind LIKE '%\_monthly' THEN left(model, -8)
        ELSE model
    END;
    RETURN CASE WHEN octet_length(model) BETWEEN 1 AND 256 THEN model END;
END
$$;
COMMENT ON FUNCTION parallax_usage_model(text, text) IS 'The model that an id names.';

CREATE FUNCTION parallax_usage_owner(kind text, id text, prefix text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE
        WHEN id LIKE '\\x%' OR kind LIKE 'usage\_model\_%' OR kind LIKE 'usage\_global\_%' OR kind NOT LIKE prefix THEN NULL
        WHEN pg_catalog.octet_length(pg_catalog.split_part(id, ':', 1)) BETWEEN 1 AND 256
            THEN pg_catalog.split_part(id, ':', 1)
    END;
COMMENT ON FUNCTION parallax_usage_owner(text, text, text) IS 'The API key or the account whose counter this is, for kinds like `prefix`.';

CREATE FUNCTION parallax_usage_period(granularity text, id text, ahead interval) RETURNS timestamptz
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
AS $$
DECLARE
    period text;
    year integer;
    month integer;
    day integer := 1;
    hour integer := 0;
BEGIN
    -- The form without its digits is compared: a third of the price of a pattern.
    IF granularity IN ('hourly', 'weekly') THEN
        period := right(id, 13);
        IF period NOT LIKE '____-__-_____' OR substr(period, 11, 1) NOT IN (':', 'T')
            OR translate(period, '0123456789', '') NOT IN ('--:', '--T') THEN
            RETURN NULL;
        END IF;
        hour := substr(period, 12, 2);
    ELSIF granularity = 'daily' THEN
        period := right(id, 10);
        IF period NOT LIKE '____-__-__' OR translate(period, '0123456789', '') <> '--' THEN
            RETURN NULL;
        END IF;
    ELSIF granularity = 'monthly' THEN
        period := right(id, 7);
        IF period NOT LIKE '____-__' OR translate(period, '0123456789', '') <> '-' THEN
            RETURN NULL;
        END IF;
    ELSE
        RETURN NULL;
    END IF;
    year := substr(period, 1, 4);
    month := substr(period, 6, 2);
    IF granularity <> 'monthly' THEN
        day := substr(period, 9, 2);
    END IF;
    IF year < 1 OR month NOT BETWEEN 1 AND 12 OR day NOT BETWEEN 1 AND 31 OR hour > 23 THEN
        RETURN NULL;
    END IF;
    -- A 30 February would be a day in March.
    IF day > 28 AND extract(month FROM make_date(year, month, 1) + (day - 1)) <> month THEN
        RETURN NULL;
    END IF;
    RETURN timezone('UTC', make_date(year, month, 1) + (day - 1) + make_interval(hours => hour) - ahead);
END
$$;
COMMENT ON FUNCTION parallax_usage_period(text, text, interval) IS
    'The moment at which the period in an id begins, on clocks that are `ahead` of UTC; NULL for totals and for what is no date.';

-- How far the dates in the relay's keys are ahead of UTC: its TIMEZONE_OFFSET.
CREATE FUNCTION parallax_offset() RETURNS interval
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN interval '08:00';
COMMENT ON FUNCTION parallax_offset() IS
    'How far the dates in the relay''s keys are ahead of UTC. Never replace it by hand: parallax_set_offset also computes anew what depends on it.';

COMMENT ON TABLE usage_counters IS 'Counters of tokens, requests and cost. They stay after they expired in Redis: the history is here.';
ALTER TABLE usage_counters
    ADD COLUMN scope text GENERATED ALWAYS AS (parallax_usage_scope(kind)) STORED,
    ADD COLUMN measure text GENERATED ALWAYS AS (parallax_usage_measure(kind)) STORED,
    ADD COLUMN granularity text GENERATED ALWAYS AS (parallax_usage_granularity(kind)) STORED,
    ADD COLUMN api_key_id text GENERATED ALWAYS AS (parallax_usage_owner(kind, id, 'usage\_%')) STORED,
    ADD COLUMN account_id text GENERATED ALWAYS AS (parallax_usage_owner(kind, id, 'account\_usage\_%')) STORED,
    ADD COLUMN model text GENERATED ALWAYS AS (parallax_usage_model(kind, id)) STORED,
    ADD COLUMN subject text GENERATED ALWAYS AS (COALESCE(
        parallax_usage_owner(kind, id, '%usage\_%'), parallax_usage_model(kind, id), parallax_usage_scope(kind))) STORED,
    ADD COLUMN period_start timestamptz GENERATED ALWAYS AS (
        parallax_usage_period(parallax_usage_granularity(kind), id, parallax_offset())) STORED,
    ADD COLUMN requests bigint GENERATED ALWAYS AS (parallax_bigint(COALESCE(doc ->> 'requests', doc ->> 'totalRequests'))) STORED,
    ADD COLUMN tokens bigint GENERATED ALWAYS AS (parallax_bigint(COALESCE(doc ->> 'tokens', doc ->> 'totalTokens'))) STORED,
    ADD COLUMN input_tokens bigint GENERATED ALWAYS AS (parallax_bigint(COALESCE(doc ->> 'inputTokens', doc ->> 'totalInputTokens'))) STORED,
    ADD COLUMN output_tokens bigint GENERATED ALWAYS AS (parallax_bigint(COALESCE(doc ->> 'outputTokens', doc ->> 'totalOutputTokens'))) STORED,
    ADD COLUMN cache_create_tokens bigint GENERATED ALWAYS AS (
        parallax_bigint(COALESCE(doc ->> 'cacheCreateTokens', doc ->> 'totalCacheCreateTokens'))) STORED,
    ADD COLUMN cache_read_tokens bigint GENERATED ALWAYS AS (
        parallax_bigint(COALESCE(doc ->> 'cacheReadTokens', doc ->> 'totalCacheReadTokens'))) STORED,
    ADD COLUMN ephemeral_5m_tokens bigint GENERATED ALWAYS AS (
        parallax_bigint(COALESCE(doc ->> 'ephemeral5mTokens', doc ->> 'totalEphemeral5mTokens'))) STORED,
    ADD COLUMN ephemeral_1h_tokens bigint GENERATED ALWAYS AS (
        parallax_bigint(COALESCE(doc ->> 'ephemeral1hTokens', doc ->> 'totalEphemeral1hTokens'))) STORED,
    ADD COLUMN all_tokens bigint GENERATED ALWAYS AS (parallax_bigint(COALESCE(doc ->> 'allTokens', doc ->> 'totalAllTokens'))) STORED,
    ADD COLUMN cost numeric GENERATED ALWAYS AS (
        CASE WHEN kind LIKE '%\_real\_%' THEN NULL
             ELSE COALESCE(parallax_numeric(parallax_text(doc)), parallax_numeric(doc ->> 'ratedCostMicro') * 0.000001) END) STORED,
    ADD COLUMN real_cost numeric GENERATED ALWAYS AS (
        CASE WHEN kind LIKE '%\_real\_%' THEN parallax_numeric(parallax_text(doc))
             ELSE parallax_numeric(doc ->> 'realCostMicro') * 0.000001 END) STORED;
COMMENT ON COLUMN usage_counters.subject IS 'What is counted: the API key, the account, the model, or global.';
COMMENT ON COLUMN usage_counters.measure IS 'tokens for hashes of counters; cost, real_cost, opus_cost, opus_real_cost for single numbers. Never add up rows of different measures or scopes.';
COMMENT ON COLUMN usage_counters.period_start IS 'When the period begins: its date is in the relay''s offset (see parallax_offset). NULL for totals.';
COMMENT ON COLUMN usage_counters.cost IS 'US dollars as the API key is charged, exact.';
COMMENT ON COLUMN usage_counters.real_cost IS 'US dollars before the rates of the API key, exact.';
CREATE INDEX usage_counters_api_key ON usage_counters (api_key_id, period_start) WHERE api_key_id IS NOT NULL;
CREATE INDEX usage_counters_account ON usage_counters (account_id, period_start) WHERE account_id IS NOT NULL;
CREATE INDEX usage_counters_period ON usage_counters (scope, measure, granularity, period_start);

CREATE FUNCTION parallax_set_offset(wanted text) RETURNS boolean
    LANGUAGE plpgsql
AS $$
BEGIN
    IF wanted !~ '^[+-](0[0-9]|1[0-4]):[0-5][0-9]$' THEN
        RAISE EXCEPTION 'an offset is written like +08:00, not %', wanted;
    END IF;
    IF parallax_offset() = wanted::interval THEN
        RETURN false;
    END IF;
    -- Other sessions must not compute a row with the offset that goes while the others get the one that comes.
    LOCK TABLE usage_counters IN EXCLUSIVE MODE;
    EXECUTE format('CREATE OR REPLACE FUNCTION %s RETURNS interval LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN interval %L',
        'parallax_offset()'::regprocedure, wanted);
    -- An update that touches the column from which another is generated computes that one anew.
    UPDATE usage_counters SET id = id WHERE parallax_usage_granularity(kind) <> 'total';
    RETURN true;
END
$$;
COMMENT ON FUNCTION parallax_set_offset(text) IS
    'Sets the offset of the dates in keys, such as +08:00, and computes period_start anew where it changed: this rewrites every counter that has a period. True if it changed.';
