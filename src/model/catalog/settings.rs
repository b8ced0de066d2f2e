//! What a family of a catalog file says for its kinds, and what a kind says for itself.

use crate::model::catalog::errors::Errors;
use crate::model::catalog::fields::Fields;
use crate::model::catalog::kind::{Body, Layout, LogShape, Policy, PushSide, Retain, Table};
use crate::model::flag::{Ack, Flag, FlagChange};

/// How far two expiry times may lie apart where a kind says nothing.
const EXPIRY_TOLERANCE_MS: u64 = 1000;

/// Settings of a kind; a family's are the start of its kinds'.
#[derive(Clone)]
pub(super) struct Settings {
    pub(super) policy: Option<Policy>,
    pub(super) layout: Layout,
    pub(super) table: Option<(usize, Table)>,
    pub(super) retain: Retain,
    pub(super) min_interval_ms: u64,
    pub(super) push: Option<(usize, PushSide)>,
    pub(super) keep: Option<u64>,
    pub(super) body: Body,
    pub(super) credentials: Vec<String>,
    pub(super) ignored_fields: Vec<String>,
    pub(super) numbers_by_value: bool,
    pub(super) expiry_tolerance_ms: u64,
    pub(super) group: Option<String>,
    pub(super) flag: Flag,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            policy: None,
            layout: Layout::Document,
            table: None,
            retain: Retain::Expire,
            min_interval_ms: 0,
            push: None,
            keep: None,
            body: Body::Any,
            credentials: Vec::new(),
            ignored_fields: Vec::new(),
            numbers_by_value: false,
            expiry_tolerance_ms: EXPIRY_TOLERANCE_MS,
            group: None,
            flag: Flag::default(),
        }
    }
}

impl Settings {
    /// These settings with what `fields` say instead.
    pub(super) fn with(mut self, fields: &mut Fields<'_>, errors: &mut Errors<'_>) -> Self {
        if let Some((_, policy)) = fields.word("policy", &words(Policy::ALL, Policy::name), Policy::of_name, errors) {
            self.policy = Some(policy);
        }
        if let Some((_, layout)) = fields.word("layout", &words(Layout::ALL, Layout::name), Layout::of_name, errors) {
            self.layout = layout;
        }
        if let Some(table) = fields.word("table", &words(Table::ALL, Table::name), Table::of_name, errors) {
            self.table = Some(table);
        }
        if let Some((_, retain)) = fields.word("retain", "expire, <n>d, forever", Retain::parse, errors) {
            self.retain = retain;
        }
        if let Some(push) = fields.word("push", &words(PushSide::ALL, PushSide::name), PushSide::of_name, errors) {
            self.push = Some(push);
        }
        if let Some((_, body)) = fields.word("body", &words(Body::ALL, Body::name), Body::of_name, errors) {
            self.body = body;
        }
        self.keep = fields.number("keep", errors).or(self.keep);
        self.min_interval_ms = fields.number("min_interval_ms", errors).unwrap_or(self.min_interval_ms);
        self.expiry_tolerance_ms = fields.number("expiry_tolerance_ms", errors).unwrap_or(self.expiry_tolerance_ms);
        self.numbers_by_value = fields.truth("numbers_by_value", errors).unwrap_or(self.numbers_by_value);
        self.credentials = fields.texts("credentials", errors).unwrap_or(self.credentials);
        self.ignored_fields = fields.texts("ignored_fields", errors).unwrap_or(self.ignored_fields);
        if let Some((at, group)) = fields.text("group", errors) {
            if !is_word(group) {
                errors.push(at, format!("the group `{group}` must be lower-case letters, digits and `_`"));
            }
            self.group = Some(group.to_owned());
        }
        if let Some(flag) = fields.table("flag", errors) {
            self.flag = read_flag(&self.flag, flag, errors);
        }
        self
    }

    /// The table, which must have the layout.
    pub(super) fn checked_table(&self, errors: &mut Errors<'_>) -> Table {
        match self.table {
            Some((at, table)) if table.layout() != self.layout => {
                errors.push(at, format!("table `{}` does not hold layout `{}`", table.name(), self.layout.name()));
                table
            }
            Some((_, table)) => table,
            None => self.layout.usual_table(),
        }
    }

    /// How the log grows, if this is one.
    pub(super) fn checked_log(&self, at: usize, errors: &mut Errors<'_>) -> Option<LogShape> {
        match (self.layout, self.push, self.keep) {
            (Layout::Log, Some((_, push)), Some(keep)) if keep > 0 => Some(LogShape { push, keep }),
            (Layout::Log, _, _) => {
                errors.push(at, "a log must say where it grows (`push`) and how many entries Redis keeps (`keep`)");
                None
            }
            (Layout::Document | Layout::Collection, Some((at, _)), _) => {
                errors.push(at, "`push` is for layout `log` only");
                None
            }
            (Layout::Document | Layout::Collection, None, Some(_)) => {
                errors.push(at, "`keep` is for layout `log` only");
                None
            }
            (Layout::Document | Layout::Collection, None, None) => None,
        }
    }
}

/// Whether a name can stand in paths, flags and metric labels.
pub(super) fn is_word(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    !name.is_empty() && name.bytes().all(is_plain)
}

fn words<T: Copy>(all: &[T], name: impl Fn(T) -> &'static str) -> String {
    all.iter().map(|value| name(*value)).collect::<Vec<_>>().join(", ")
}

/// A flag's defaults. The stage is not among them: a kind begins at off, and only an operator takes it up.
fn read_flag(before: &Flag, mut fields: Fields<'_>, errors: &mut Errors<'_>) -> Flag {
    let ack = |word: &str| match word {
        "redis" => Some(Ack::Redis),
        "both" => Some(Ack::Both),
        _ => None,
    };
    let change = FlagChange {
        sample_rate: fields.fraction("sample_rate", errors),
        deadline_ms: fields.number("deadline_ms", errors),
        ack: fields.word("ack", "redis, both", ack, errors).map(|(_, ack)| ack),
        ..FlagChange::default()
    };
    let at = fields.at();
    fields.refuse_the_rest(errors);
    change.applied_to(before).unwrap_or_else(|error| {
        errors.push(at, format!("flag: {error}"));
        before.clone()
    })
}
