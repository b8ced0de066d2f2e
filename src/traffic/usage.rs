//! What one request uses, in the forms in which the relay keeps it: counter fields and event records.

use crate::traffic::world::{ApiKey, Calendar};
use crate::traffic::{Burst, command};

/// Seconds that a daily, monthly and hourly figure is kept.
pub(super) const DAILY: &str = "2764800";
pub(super) const MONTHLY: &str = "31536000";
pub(super) const HOURLY: &str = "604800";

/// The tokens and the cost of one request.
#[derive(Clone, Debug)]
pub(super) struct Usage {
    pub(super) input: u64,
    pub(super) output: u64,
    pub(super) cache_create: u64,
    pub(super) cache_read: u64,
    pub(super) ephemeral_5m: u64,
    pub(super) requests: u64,
    pub(super) cost_micro: u64,
}

impl Usage {
    /// The typical request of the recorded run, with this cost.
    pub(super) fn of(cost_micro: u64) -> Self {
        Self { input: 120, output: 45, cache_create: 30, cache_read: 200, ephemeral_5m: 30, requests: 1, cost_micro }
    }

    /// The same request `n` times.
    pub(super) fn times(&self, n: u64) -> Self {
        Self {
            input: self.input * n,
            output: self.output * n,
            cache_create: self.cache_create * n,
            cache_read: self.cache_read * n,
            ephemeral_5m: self.ephemeral_5m * n,
            requests: self.requests * n,
            cost_micro: self.cost_micro * n,
        }
    }

    pub(super) fn core(&self) -> u64 {
        self.input + self.output
    }

    pub(super) fn all(&self) -> u64 {
        self.core() + self.cache_create + self.cache_read
    }

    /// The cost as the float that the relay adds: its own arithmetic leaves tails like `...97`.
    pub(super) fn cost(&self) -> String {
        format!("{:.17}", self.cost_micro as f64 / 1e6).trim_end_matches('0').to_owned()
    }

    /// Eight fields of a figure that is kept for each model.
    pub(super) fn model_fields(&self) -> Vec<(String, u64)> {
        named(&[
            ("inputTokens", self.input),
            ("outputTokens", self.output),
            ("cacheCreateTokens", self.cache_create),
            ("cacheReadTokens", self.cache_read),
            ("allTokens", self.all()),
            ("requests", self.requests),
            ("ephemeral5mTokens", self.ephemeral_5m),
            ("ephemeral1hTokens", 0),
        ])
    }

    /// Nine fields of a figure that is kept for each API key or account.
    pub(super) fn period_fields(&self) -> Vec<(String, u64)> {
        let mut fields = named(&[("tokens", self.core())]);
        fields.extend(self.model_fields());
        fields
    }

    /// Ten fields of a figure that is kept for each API key and model.
    pub(super) fn cost_fields(&self) -> Vec<(String, u64)> {
        let mut fields = self.model_fields();
        fields.extend(named(&[("realCostMicro", self.cost_micro), ("ratedCostMicro", self.cost_micro)]));
        fields
    }

    /// As [`Usage::cost_fields`] without `allTokens`, which the all-time figure does not have.
    pub(super) fn alltime_fields(&self) -> Vec<(String, u64)> {
        self.cost_fields().into_iter().filter(|(name, _)| name != "allTokens").collect()
    }

    /// Nine fields of a total.
    pub(super) fn total_fields(&self) -> Vec<(String, u64)> {
        named(&[
            ("totalTokens", self.core()),
            ("totalInputTokens", self.input),
            ("totalOutputTokens", self.output),
            ("totalCacheCreateTokens", self.cache_create),
            ("totalCacheReadTokens", self.cache_read),
            ("totalAllTokens", self.all()),
            ("totalEphemeral5mTokens", self.ephemeral_5m),
            ("totalEphemeral1hTokens", 0),
            ("totalRequests", self.requests),
        ])
    }
}

fn named(fields: &[(&str, u64)]) -> Vec<(String, u64)> {
    fields.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
}

/// Six fields of the figure of one minute.
pub(super) fn minute_fields(usage: &Usage) -> Vec<(String, u64)> {
    named(&[
        ("requests", usage.requests),
        ("totalTokens", usage.all()),
        ("inputTokens", usage.input),
        ("outputTokens", usage.output),
        ("cacheCreateTokens", usage.cache_create),
        ("cacheReadTokens", usage.cache_read),
    ])
}

/// The JSON of an entry of `usage:records:{id}`.
pub(super) fn usage_record(calendar: &Calendar, account: &str, model: &str, usage: &Usage, request: &str) -> String {
    serde_json::json!({
        "timestamp": calendar.iso, "model": model, "accountId": account, "accountType": "claude-console",
        "requestId": request, "endpoint": "/api/v1/messages", "method": "POST", "statusCode": 200, "stream": true,
        "durationMs": 40, "inputTokens": usage.input, "outputTokens": usage.output,
        "cacheCreateTokens": usage.cache_create, "cacheReadTokens": usage.cache_read,
        "ephemeral5mTokens": usage.ephemeral_5m, "ephemeral1hTokens": 0, "totalTokens": usage.all(),
        "cost": usage.cost_micro as f64 / 1e6, "realCost": usage.cost_micro as f64 / 1e6, "isLongContext": false,
    })
    .to_string()
}

/// The JSON in the field `data` of an entry of `billing:events`.
pub(super) fn billing_event(
    calendar: &Calendar,
    key: &ApiKey,
    account: &str,
    model: &str,
    usage: &Usage,
    request: &str,
) -> String {
    serde_json::json!({
        "eventId": format!("{}-{}", calendar.ms, request.get(..9).unwrap_or(request)),
        "eventType": "usage.recorded", "timestamp": calendar.iso, "version": "1.0",
        "apiKey": {"id": key.id, "name": key.name, "userId": null},
        "usage": {"model": model, "inputTokens": usage.input, "outputTokens": usage.output,
            "cacheCreateTokens": usage.cache_create, "cacheReadTokens": usage.cache_read,
            "ephemeral5mTokens": usage.ephemeral_5m, "ephemeral1hTokens": 0, "totalTokens": usage.all()},
        "cost": {"total": usage.cost_micro as f64 / 1e6, "currency": "USD"},
        "account": {"id": account, "type": "claude-console"},
        "context": {"isLongContext": false, "requestTimestamp": calendar.iso},
    })
    .to_string()
}

/// The two event records: the last 200 of the API key in one MULTI, and the billing stream.
pub(super) fn events(
    calendar: &Calendar,
    key: &ApiKey,
    account: &str,
    model: &str,
    usage: &Usage,
    request: &str,
) -> Vec<Burst> {
    let records = format!("usage:records:{}", key.id);
    vec![
        vec![
            command(&["multi"]),
            command(&["lpush", &records, &usage_record(calendar, account, model, usage, request)]),
            command(&["ltrim", &records, "0", "199"]),
            command(&["expire", &records, "7776000"]),
            command(&["exec"]),
        ],
        vec![command(&[
            "xadd",
            "billing:events",
            "MAXLEN",
            "~",
            "100000",
            "*",
            "data",
            &billing_event(calendar, key, account, model, usage, request),
        ])],
    ]
}
