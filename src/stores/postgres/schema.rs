//! The tables as Diesel knows them, written by hand: generated columns are left out, since only SQL reads them.
//!
//! A test holds this file against the migrated database, column by column.

#![expect(missing_docs, reason = "the comments on tables and columns are in the migrations, where psql shows them")]

diesel::table! {
    api_keys (key_hash) {
        key_hash -> Binary,
        key -> Text,
        kind -> Text,
        id -> Text,
        #[sql_name = "type"]
        type_ -> Text,
        doc -> Nullable<Jsonb>,
        version -> Int8,
        seq -> Int8,
        expires_at -> Nullable<Timestamptz>,
        gone_at -> Nullable<Timestamptz>,
        deleted_at -> Nullable<Timestamptz>,
        updated_at -> Timestamptz,
    }
}

diesel::table! {
    accounts (key_hash) {
        key_hash -> Binary,
        key -> Text,
        kind -> Text,
        id -> Text,
        #[sql_name = "type"]
        type_ -> Text,
        doc -> Nullable<Jsonb>,
        version -> Int8,
        seq -> Int8,
        expires_at -> Nullable<Timestamptz>,
        gone_at -> Nullable<Timestamptz>,
        deleted_at -> Nullable<Timestamptz>,
        updated_at -> Timestamptz,
        parsed -> Nullable<Jsonb>,
    }
}

diesel::table! {
    account_groups (key_hash) {
        key_hash -> Binary,
        key -> Text,
        kind -> Text,
        id -> Text,
        #[sql_name = "type"]
        type_ -> Text,
        doc -> Nullable<Jsonb>,
        version -> Int8,
        seq -> Int8,
        expires_at -> Nullable<Timestamptz>,
        gone_at -> Nullable<Timestamptz>,
        deleted_at -> Nullable<Timestamptz>,
        updated_at -> Timestamptz,
    }
}

diesel::table! {
    users (key_hash) {
        key_hash -> Binary,
        key -> Text,
        kind -> Text,
        id -> Text,
        #[sql_name = "type"]
        type_ -> Text,
        doc -> Nullable<Jsonb>,
        version -> Int8,
        seq -> Int8,
        expires_at -> Nullable<Timestamptz>,
        gone_at -> Nullable<Timestamptz>,
        deleted_at -> Nullable<Timestamptz>,
        updated_at -> Timestamptz,
        parsed -> Nullable<Jsonb>,
    }
}

diesel::table! {
    quota_cards (key_hash) {
        key_hash -> Binary,
        key -> Text,
        kind -> Text,
        id -> Text,
        #[sql_name = "type"]
        type_ -> Text,
        doc -> Nullable<Jsonb>,
        version -> Int8,
        seq -> Int8,
        expires_at -> Nullable<Timestamptz>,
        gone_at -> Nullable<Timestamptz>,
        deleted_at -> Nullable<Timestamptz>,
        updated_at -> Timestamptz,
    }
}

diesel::table! {
    configs (key_hash) {
        key_hash -> Binary,
        key -> Text,
        kind -> Text,
        id -> Text,
        #[sql_name = "type"]
        type_ -> Text,
        doc -> Nullable<Jsonb>,
        version -> Int8,
        seq -> Int8,
        expires_at -> Nullable<Timestamptz>,
        gone_at -> Nullable<Timestamptz>,
        deleted_at -> Nullable<Timestamptz>,
        updated_at -> Timestamptz,
    }
}

diesel::table! {
    usage_counters (key_hash) {
        key_hash -> Binary,
        key -> Text,
        kind -> Text,
        id -> Text,
        #[sql_name = "type"]
        type_ -> Text,
        doc -> Nullable<Jsonb>,
        version -> Int8,
        seq -> Int8,
        expires_at -> Nullable<Timestamptz>,
        gone_at -> Nullable<Timestamptz>,
        deleted_at -> Nullable<Timestamptz>,
        updated_at -> Timestamptz,
    }
}

diesel::table! {
    records (key_hash) {
        key_hash -> Binary,
        key -> Text,
        kind -> Text,
        id -> Text,
        #[sql_name = "type"]
        type_ -> Text,
        doc -> Nullable<Jsonb>,
        version -> Int8,
        seq -> Int8,
        expires_at -> Nullable<Timestamptz>,
        gone_at -> Nullable<Timestamptz>,
        deleted_at -> Nullable<Timestamptz>,
        updated_at -> Timestamptz,
    }
}

diesel::table! {
    collections (key_hash) {
        key_hash -> Binary,
        key -> Text,
        kind -> Text,
        id -> Text,
        #[sql_name = "type"]
        type_ -> Text,
        version -> Int8,
        seq -> Int8,
        expires_at -> Nullable<Timestamptz>,
        gone_at -> Nullable<Timestamptz>,
        deleted_at -> Nullable<Timestamptz>,
        updated_at -> Timestamptz,
        floor -> Int8,
        last_version -> Int8,
        complete -> Bool,
        first_id -> Nullable<Text>,
        last_id -> Nullable<Text>,
    }
}

diesel::table! {
    elements (key_hash, element_hash) {
        key_hash -> Binary,
        element_hash -> Binary,
        kind -> Text,
        id -> Text,
        element -> Text,
        doc -> Nullable<Jsonb>,
        version -> Int8,
        seq -> Int8,
        deleted_at -> Nullable<Timestamptz>,
        updated_at -> Timestamptz,
    }
}

diesel::table! {
    event_logs (key_hash, element_hash) {
        key_hash -> Binary,
        element_hash -> Binary,
        kind -> Text,
        id -> Text,
        element -> Text,
        doc -> Nullable<Jsonb>,
        version -> Int8,
        seq -> Int8,
        deleted_at -> Nullable<Timestamptz>,
        updated_at -> Timestamptz,
        parsed -> Nullable<Jsonb>,
    }
}

diesel::table! {
    control (table_name) {
        table_name -> Text,
        epoch -> Int8,
        floor -> Int8,
    }
}

diesel::table! {
    heartbeat (only) {
        only -> Bool,
        beat -> Int8,
        at -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    flag_changes (id) {
        id -> Int8,
        version -> Int8,
        kind -> Text,
        flag_before -> Nullable<Jsonb>,
        flag_after -> Nullable<Jsonb>,
        who -> Text,
        origin -> Text,
        reason -> Nullable<Text>,
        at -> Timestamptz,
    }
}

diesel::table! {
    mismatches (seq) {
        seq -> Int8,
        at -> Timestamptz,
        kind -> Text,
        key_hash -> Binary,
        id -> Text,
        class -> Text,
        fields -> Array<Text>,
        redis_version -> Nullable<Int8>,
        postgres_version -> Nullable<Int8>,
        times -> Int8,
    }
}

diesel::table! {
    ghosts (seq) {
        seq -> Int8,
        at -> Timestamptz,
        epoch -> Int8,
        kind -> Text,
        key_hash -> Binary,
        id -> Text,
        element -> Nullable<Text>,
        #[sql_name = "type"]
        type_ -> Text,
        doc -> Nullable<Jsonb>,
        version -> Int8,
        settled_at -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    capture_gaps (id) {
        id -> Int8,
        at -> Timestamptz,
        kind -> Text,
        cause -> Text,
        from_version -> Int8,
        version -> Int8,
        detail -> Text,
    }
}

diesel::table! {
    dead_letters (key_hash, element_hash) {
        key_hash -> Binary,
        element_hash -> Binary,
        token -> Text,
        kind -> Text,
        reason -> Text,
        at -> Timestamptz,
    }
}

diesel::table! {
    log_gaps (seq) {
        seq -> Int8,
        at -> Timestamptz,
        kind -> Text,
        key_hash -> Binary,
        id -> Text,
        first_id -> Nullable<Text>,
        last_id -> Nullable<Text>,
        missing -> Nullable<Int8>,
    }
}

diesel::table! {
    jobs (id) {
        id -> Text,
        job -> Text,
        kinds -> Array<Text>,
        state -> Text,
        error -> Nullable<Text>,
        started_at -> Timestamptz,
        updated_at -> Timestamptz,
        finished_at -> Nullable<Timestamptz>,
        spec -> Jsonb,
        place -> Nullable<Jsonb>,
        progress -> Jsonb,
        origin -> Text,
        holder -> Text,
        lease_until -> Timestamptz,
        wish -> Nullable<Text>,
        report -> Nullable<Jsonb>,
    }
}

diesel::table! {
    proofs (id) {
        id -> Int8,
        at -> Timestamptz,
        kinds -> Array<Text>,
        keys -> Int8,
        bytes -> Int8,
        duration_ms -> Int8,
        differences -> Jsonb,
        version -> Int8,
        valid_until -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    repairs (seq) {
        seq -> Int8,
        at -> Timestamptz,
        job -> Text,
        kind -> Text,
        key_hash -> Binary,
        id -> Text,
        class_before -> Text,
        version_before -> Int8,
        verdict_after -> Nullable<Text>,
        version_after -> Nullable<Int8>,
    }
}
