DROP TABLE repairs;
DROP INDEX api_keys_dead, accounts_dead, account_groups_dead, users_dead, quota_cards_dead, configs_dead, usage_counters_dead,
    records_dead, collections_dead, elements_dead, event_logs_dead;
