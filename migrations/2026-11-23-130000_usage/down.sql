DROP FUNCTION parallax_set_offset(text);
DROP INDEX usage_counters_period, usage_counters_account, usage_counters_api_key;
ALTER TABLE usage_counters
    DROP COLUMN scope, DROP COLUMN measure, DROP COLUMN granularity, DROP COLUMN api_key_id, DROP COLUMN account_id,
    DROP COLUMN model, DROP COLUMN subject, DROP COLUMN period_start, DROP COLUMN requests, DROP COLUMN tokens,
    DROP COLUMN input_tokens, DROP COLUMN output_tokens, DROP COLUMN cache_create_tokens, DROP COLUMN cache_read_tokens,
    DROP COLUMN ephemeral_5m_tokens, DROP COLUMN ephemeral_1h_tokens, DROP COLUMN all_tokens, DROP COLUMN cost,
    DROP COLUMN real_cost;
DROP FUNCTION parallax_offset();
DROP FUNCTION parallax_usage_period(text, text, interval);
DROP FUNCTION parallax_usage_owner(text, text, text);
DROP FUNCTION parallax_usage_model(text, text);
DROP FUNCTION parallax_usage_measure(text);
DROP FUNCTION parallax_usage_scope(text);
DROP FUNCTION parallax_usage_granularity(text);
