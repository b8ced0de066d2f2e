//! A kind: a family of keys, and everything the engine must know of it.

use std::sync::Arc;

use crate::model::catalog::pattern::Pattern;
use crate::model::flag::Flag;
use crate::model::key::Key;
use crate::model::text;

/// A closed set of words that a catalog file may use.
macro_rules! words {
    ($(#[$about:meta])* $name:ident { $($(#[$note:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$note])* $variant),+ }

        impl $name {
            /// Every value, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word in catalog files, documents and metrics.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }

            /// The value that `word` names.
            #[must_use]
            pub fn of_name(word: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|value| value.name() == word)
            }
        }
    };
}

words! {
    /// Where records of a kind live.
    Policy {
        /// In Redis and in Postgres.
        Mirror = "mirror",
        /// In Redis only, forwarded untouched.
        Ephemeral = "ephemeral",
        /// As `Mirror`, but an index that could be rebuilt: never read from Postgres.
        Derived = "derived",
    }
}

words! {
    /// How a record lies in Postgres.
    Layout {
        /// One row a record.
        Document = "document",
        /// One row an element.
        Collection = "collection",
        /// One row an entry, kept when Redis trims it.
        Log = "log",
    }
}

words! {
    /// The tables that hold mirrored data. The engine writes one statement for all of them: this enum is closed so that
    /// no name from outside ever stands in SQL.
    Table {
        /// API keys.
        ApiKeys = "api_keys",
        /// Upstream accounts of every platform.
        Accounts = "accounts",
        /// Groups of accounts.
        AccountGroups = "account_groups",
        /// People.
        Users = "users",
        /// Quota cards.
        QuotaCards = "quota_cards",
        /// Settings of the application.
        Configs = "configs",
        /// Counters of tokens, requests and cost.
        UsageCounters = "usage_counters",
        /// Every other document.
        Records = "records",
        /// Elements of collections.
        Elements = "elements",
        /// Entries of logs.
        EventLogs = "event_logs",
    }
}

words! {
    /// What the records API may write as a whole.
    Body {
        /// A flat hash.
        Hash = "hash",
        /// One string.
        Text = "text",
        /// Nothing: commands only.
        Any = "any",
    }
}

words! {
    /// Where a log grows.
    PushSide {
        /// `LPUSH`.
        Left = "left",
        /// `RPUSH`.
        Right = "right",
        /// `XADD`.
        Stream = "stream",
    }
}

impl Table {
    /// The layout of its rows.
    #[must_use]
    pub fn layout(self) -> Layout {
        match self {
            Self::ApiKeys
            | Self::Accounts
            | Self::AccountGroups
            | Self::Users
            | Self::QuotaCards
            | Self::Configs
            | Self::UsageCounters
            | Self::Records => Layout::Document,
            Self::Elements => Layout::Collection,
            Self::EventLogs => Layout::Log,
        }
    }
}

impl Layout {
    /// The table of a kind that names none.
    #[must_use]
    pub fn usual_table(self) -> Table {
        match self {
            Self::Document => Table::Records,
            Self::Collection => Table::Elements,
            Self::Log => Table::EventLogs,
        }
    }
}

/// How long rows stay for SQL after they expired in Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retain {
    /// Until the next sweep.
    Expire,
    /// So many days more.
    Days(u32),
    /// As long as somebody keeps the database.
    Forever,
}

impl Retain {
    /// What `text` says: `expire`, `<n>d` or `forever`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "expire" => Some(Self::Expire),
            "forever" => Some(Self::Forever),
            days => days.strip_suffix('d')?.parse().ok().filter(|days| *days > 0).map(Self::Days),
        }
    }
}

/// How a log grows, and how much of it stays in Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogShape {
    /// Where it grows.
    pub push: PushSide,
    /// How many entries the application keeps in Redis.
    pub keep: u64,
}

/// A family of keys.
#[derive(Clone, Debug)]
pub struct Kind {
    /// The position in [`super::Catalog::kinds`].
    pub index: usize,
    /// The name in paths, flags, rows and metrics.
    pub name: String,
    /// Which keys belong to it, unless an earlier kind takes them.
    pub pattern: Pattern,
    /// Where its records live.
    pub policy: Policy,
    /// How a record lies in Postgres.
    pub layout: Layout,
    /// The table of its rows.
    pub table: Table,
    /// How long rows outlive their records.
    pub retain: Retain,
    /// The shortest time between two captures of one record, in milliseconds; 0: no bound.
    pub min_interval_ms: u64,
    /// How it grows; a log has it, nothing else.
    pub log: Option<LogShape>,
    /// What the records API may write.
    pub body: Body,
    /// Fields that are masked wherever values are shown.
    pub credentials: Vec<String>,
    /// Fields that a comparison leaves out.
    pub ignored_fields: Vec<String>,
    /// Whether a comparison takes `1.0` and `1` for the same.
    pub numbers_by_value: bool,
    /// How far two expiry times may lie apart and still be the same, in milliseconds.
    pub expiry_tolerance_ms: u64,
    /// The group whose kinds a plan may move together.
    pub group: Option<String>,
    /// The flag until somebody sets one.
    pub flag: Flag,
    /// Earlier patterns, with their kinds' names: a key that one of them matches is not of this kind.
    pub(super) earlier: Vec<(Arc<str>, Pattern)>,
}

impl Kind {
    /// The id of the record `key`, in text form: what stands between the fixed ends of the pattern.
    #[must_use]
    pub fn id_of(&self, key: &[u8]) -> String {
        text::encode(self.pattern.middle(key)).into_owned()
    }

    /// The key of the record `id`.
    ///
    /// # Errors
    /// Why the id breaks the pattern; the id itself is not repeated.
    pub fn key_of(&self, id: &str) -> Result<Key, String> {
        let middle = text::decode(id);
        if text::encode(&middle) != id {
            return Err("the id is hexadecimal, but its bytes are plain text and must be written as such".to_owned());
        }
        let key = self.pattern.around(&middle);
        if !self.pattern.matches(&key) {
            return Err(format!("the id does not fit the pattern `{}` of kind `{}`", self.pattern, self.name));
        }
        match self.earlier.iter().find(|(_, pattern)| pattern.matches(&key)) {
            Some((name, pattern)) => Err(format!("such an id belongs to kind `{name}` with the pattern `{pattern}`")),
            None => Ok(Key::new(key)),
        }
    }

    /// What of `other`, the same kind of another catalog, would make rows mean something else, or other keys belong to it.
    #[must_use]
    pub fn changed_in(&self, other: &Self) -> Vec<&'static str> {
        let differences = [
            ("pattern", self.pattern != other.pattern),
            ("policy", self.policy != other.policy),
            ("layout", self.layout != other.layout),
            ("table", self.table != other.table),
            ("log", self.log != other.log),
            ("place behind other patterns", self.earlier != other.earlier),
        ];
        differences.into_iter().filter(|(_, differs)| *differs).map(|(what, _)| what).collect()
    }

    /// Whether it goes to Postgres.
    #[must_use]
    pub fn is_mirrored(&self) -> bool {
        match self.policy {
            Policy::Mirror | Policy::Derived => true,
            Policy::Ephemeral => false,
        }
    }

    /// Whether reads may be answered by Postgres (G4: never those of a log).
    #[must_use]
    pub fn is_readable(&self) -> bool {
        match self.policy {
            Policy::Mirror => self.layout != Layout::Log,
            Policy::Derived | Policy::Ephemeral => false,
        }
    }
}
