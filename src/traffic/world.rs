//! Who lives in the generated relay: its accounts, API keys and calendar, the same for the same seed.

use chrono::{DateTime, Datelike, Duration, Utc};

/// How much is made, and from which seed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// The same seed gives the same bytes.
    pub seed: u64,
    /// How many API keys exist before the traffic starts; at least 4.
    pub api_keys: usize,
    /// How many days of usage history exist; at least 1, at most 30 (the relay keeps daily figures for 32).
    pub days: usize,
    /// The moment "now" in milliseconds since 1970: keys carry dates, so it is an input.
    pub now_ms: i64,
}

/// A small seeded source of numbers (`SplitMix64`). Its sequence is part of this file and not of a library's version, so
/// that a seed in a bug report means the same next year.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// A source for `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is at least 1.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.roll() % bound.max(1)
    }

    /// One of `choices`, which are never empty.
    pub fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        let at = usize::try_from(self.below(choices.len() as u64)).unwrap_or(0);
        choices.get(at).expect("an index below the length of choices that are never empty")
    }

    /// `digits` lower-case hexadecimal digits.
    pub fn hex(&mut self, digits: usize) -> String {
        let mut text = String::with_capacity(digits + 16);
        while text.len() < digits {
            text.push_str(&format!("{:016x}", self.roll()));
        }
        text.truncate(digits);
        text
    }

    /// A random (version 4) UUID.
    pub fn uuid(&mut self) -> String {
        let bits = (u128::from(self.roll()) << 64) | u128::from(self.roll());
        let bits = (bits & !(0xf000 << 64) & !(0xc000 << 48)) | (0x4000 << 64) | (0x8000 << 48);
        let text = format!("{bits:032x}");
        let parts = [(0, 8), (8, 12), (12, 16), (16, 20), (20, 32)];
        parts.map(|(from, to)| text.get(from..to).unwrap_or_default()).join("-")
    }
}

/// A family of upstream accounts, with the key patterns that belong to it.
#[derive(Debug, PartialEq, Eq)]
pub struct Family {
    /// What stands before `:{id}`.
    pub prefix: &'static str,
    /// The name in fields and in group keys.
    pub platform: &'static str,
    /// The set of shared accounts, where the family has one.
    pub shared: Option<&'static str>,
    /// The fields that hold encrypted credentials.
    pub credentials: &'static [&'static str],
}

const fn family(
    prefix: &'static str,
    platform: &'static str,
    shared: Option<&'static str>,
    credentials: &'static [&'static str],
) -> Family {
    Family { prefix, platform, shared, credentials }
}

/// The ten account families. Only `bedrock_account` is a JSON string instead of a hash.
pub const FAMILIES: [Family; 10] = [
    family("claude_console_account", "claude-console", Some("shared_claude_console_accounts"), &["apiKey"]),
    family("claude:account", "claude", None, &["claudeAiOauth", "accessToken", "refreshToken"]),
    family("ccr_account", "ccr", Some("shared_ccr_accounts"), &["apiKey"]),
    family("openai:account", "openai", Some("shared_openai_accounts"), &["idToken", "accessToken", "refreshToken"]),
    family("openai_responses_account", "openai-responses", Some("shared_openai_responses_accounts"), &["apiKey"]),
    family("azure_openai:account", "azure-openai", Some("shared_azure_openai_accounts"), &["apiKey"]),
    family("gemini_account", "gemini", Some("shared_gemini_accounts"), &["geminiOauth", "accessToken", "refreshToken"]),
    family("gemini_api_account", "gemini-api", Some("shared_gemini_api_accounts"), &["apiKey"]),
    family("droid:account", "droid", None, &["apiKeys"]),
    family("bedrock_account", "bedrock", None, &["awsCredentials"]),
];

/// An upstream account.
#[derive(Clone, Debug)]
pub struct Account {
    /// Its family.
    pub family: &'static Family,
    /// Its UUID.
    pub id: String,
}

impl Account {
    /// The key of its record.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{}:{}", self.family.prefix, self.id)
    }
}

/// An API key of the relay's own users.
#[derive(Clone, Debug)]
pub struct ApiKey {
    /// Its UUID.
    pub id: String,
    /// Its name, which an update may change.
    pub name: String,
    /// SHA-256 (as hex) of the secret: the field in `apikey:hash_map`.
    pub hash: String,
    /// Its tags.
    pub tags: Vec<String>,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: i64,
    /// Its conversations: the relay keeps one account a conversation.
    pub sessions: Vec<String>,
}

/// The models that are asked for, with the cost of one request in millionths of a dollar.
pub const MODELS: [(&str, u64); 3] =
    [("claude-3-5-haiku-20241022", 322), ("claude-sonnet-4-20250514", 1208), ("claude-opus-4-20250514", 6037)];

/// Everybody who exists at one moment of the traffic.
#[derive(Clone, Debug)]
pub struct World {
    /// What was asked for.
    pub shape: Shape,
    /// The source of everything random after the start.
    pub dice: Dice,
    /// The upstream accounts: two claude-console, one of each other family.
    pub accounts: Vec<Account>,
    /// The API keys that are not deleted.
    pub api_keys: Vec<ApiKey>,
    /// The keys that were soft-deleted, which the relay keeps.
    pub deleted: Vec<ApiKey>,
    /// The moving "now" of the traffic, in milliseconds since 1970.
    pub now_ms: i64,
    /// How many API keys were ever made: names count up.
    pub made: usize,
}

impl World {
    /// The world before the traffic.
    #[must_use]
    pub fn new(shape: Shape) -> Self {
        let mut dice = Dice::new(shape.seed);
        let second_console = FAMILIES.iter().take(1);
        let accounts =
            FAMILIES.iter().chain(second_console).map(|family| Account { family, id: dice.uuid() }).collect();
        let now_ms = shape.now_ms;
        let count = shape.api_keys.max(4);
        let mut world = Self { shape, dice, accounts, api_keys: Vec::new(), deleted: Vec::new(), now_ms, made: 0 };
        for _ in 0..count {
            let made = world.make_key();
            world.api_keys.push(made);
        }
        // A tenth was deleted before we look: lists subtract the deleted from all.
        let keep = count - (count / 10).max(1);
        world.deleted = world.api_keys.split_off(keep);
        world
    }

    /// A new API key; the caller decides whether it is kept.
    pub fn make_key(&mut self) -> ApiKey {
        let number = self.made;
        self.made += 1;
        let parity = if number.is_multiple_of(2) { "even" } else { "odd" };
        let age_days = i64::try_from(self.dice.below(self.shape.days.max(1) as u64)).unwrap_or(0);
        ApiKey {
            id: self.dice.uuid(),
            name: format!("key-{number:03}"),
            hash: self.dice.hex(64),
            tags: vec![format!("team-{}", number % 5), parity.to_owned()],
            created_ms: self.now_ms - age_days * 86_400_000,
            sessions: (0..3).map(|_| self.dice.hex(32)).collect(),
        }
    }

    /// The claude-console account that serves this session: the same one every time.
    #[must_use]
    pub fn console_for(&self, session: &str) -> &Account {
        let consoles: Vec<&Account> =
            self.accounts.iter().filter(|account| account.family.prefix == "claude_console_account").collect();
        let at = session.len() + session.bytes().map(usize::from).sum::<usize>();
        consoles.get(at % consoles.len().max(1)).expect("a world has two console accounts")
    }

    /// The calendar at the moving "now".
    #[must_use]
    pub fn calendar(&self) -> Calendar {
        Calendar::at(self.now_ms)
    }
}

/// The dates that stand in keys. They are in the relay's offset (+8 by default), not in UTC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Calendar {
    /// `2026-11-23`
    pub day: String,
    /// `2026-11`
    pub month: String,
    /// `2026-11-23:14`
    pub hour: String,
    /// `2026-11-23T00`: the last Monday.
    pub week: String,
    /// Minutes since 1970.
    pub minute: i64,
    /// `20261123`
    pub compact_day: String,
    /// `2026-11-23T06:03:19.768Z`, in UTC: only keys are in the offset.
    pub iso: String,
    /// Milliseconds since 1970.
    pub ms: i64,
}

impl Calendar {
    /// The calendar at `ms` milliseconds since 1970.
    #[must_use]
    pub fn at(ms: i64) -> Self {
        let utc = DateTime::<Utc>::from_timestamp_millis(ms).unwrap_or_default();
        let local = utc + Duration::hours(8);
        let monday = local - Duration::days(i64::from(local.weekday().num_days_from_monday()));
        Self {
            day: local.format("%Y-%m-%d").to_string(),
            month: local.format("%Y-%m").to_string(),
            hour: local.format("%Y-%m-%d:%H").to_string(),
            week: monday.format("%Y-%m-%dT00").to_string(),
            minute: ms / 60_000,
            compact_day: local.format("%Y%m%d").to_string(),
            iso: utc.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string(),
            ms,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON_UTC: i64 = 1_795_435_200_000;

    #[test]
    fn dates_in_keys_are_eight_hours_ahead_of_utc() {
        let calendar = Calendar::at(NOON_UTC + 5 * 3_600_000);
        assert_eq!(calendar.iso, "2026-11-23T17:00:00.000Z");
        assert_eq!(calendar.day, "2026-11-24");
        assert_eq!(calendar.hour, "2026-11-24:01");
        assert_eq!(calendar.week, "2026-11-23T00");
    }

    #[test]
    fn a_uuid_is_of_version_four() {
        let id = Dice::new(7).uuid();
        assert_eq!(id.len(), 36);
        assert_eq!(id.as_bytes()[14], b'4');
        assert!(b"89ab".contains(&id.as_bytes()[19]));
    }

    #[test]
    fn a_session_always_has_the_same_account() {
        let world = World::new(Shape { seed: 1, api_keys: 6, days: 2, now_ms: NOON_UTC });
        let session = &world.api_keys[0].sessions[0];
        assert_eq!(world.console_for(session).id, world.console_for(session).id);
        assert_eq!(world.accounts.len(), 11);
    }
}
