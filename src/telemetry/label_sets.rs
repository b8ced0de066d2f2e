//! The series of an instrument: one for each combination of the values that its labels may take. They are numbered, and a
//! series' labels are made from its number when somebody asks for them, so that a series costs no memory before it is shown.

use std::sync::Arc;

use opentelemetry::KeyValue;
use prometheus::proto::LabelPair;

/// One label of an instrument and all values it may take.
pub(super) type LabelSet = (&'static str, Vec<String>);

/// The labels of an instrument. The positions of a series' values are its place in a row-major table.
#[derive(Clone)]
pub(super) struct Labels(Arc<[Label]>);

/// The name of a label and its values.
type Label = (&'static str, Vec<Arc<str>>);

impl Labels {
    pub(super) fn of(labels: &[LabelSet]) -> Self {
        let shared = |values: &Vec<String>| values.iter().map(|value| Arc::from(value.as_str())).collect();
        Self(labels.iter().map(|(name, values)| (*name, shared(values))).collect())
    }

    /// How many series there are.
    pub(super) fn series(&self) -> usize {
        self.0.iter().map(|(_, values)| values.len()).product()
    }

    /// The number of the series with the values at these positions, one for each label; `None` for a position outside.
    pub(super) fn number(&self, positions: &[usize]) -> Option<usize> {
        debug_assert_eq!(positions.len(), self.0.len(), "one position for each label");
        let mut number = 0;
        for (position, (_, values)) in positions.iter().zip(self.0.iter()) {
            if *position >= values.len() {
                return None;
            }
            number = number * values.len() + position;
        }
        Some(number)
    }

    /// The labels of a series. They share their texts.
    pub(super) fn shown(&self, number: usize) -> Vec<KeyValue> {
        let mut rest = number;
        let mut labels: Vec<KeyValue> = Vec::with_capacity(self.0.len());
        for (name, values) in self.0.iter().rev() {
            let value = values.get(rest % values.len()).map_or_else(|| Arc::from(""), Arc::clone);
            labels.push(KeyValue::new(*name, value));
            rest /= values.len();
        }
        labels.reverse();
        labels
    }

    /// The number of the series that a scrape shows with these labels.
    pub(super) fn found(&self, shown: &[LabelPair]) -> Option<usize> {
        if shown.len() != self.0.len() {
            return None;
        }
        let position = |(name, values): &Label| {
            let value = shown.iter().find(|label| label.name() == *name)?.value();
            values.iter().position(|known| **known == *value)
        };
        self.number(&self.0.iter().map(position).collect::<Option<Vec<_>>>()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_series_is_found_by_the_labels_that_are_shown_of_it() {
        let values = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect();
        let labels = Labels::of(&[("kind", values(&["a", "b", "c"])), ("store", values(&["redis", "postgres"]))]);
        assert_eq!(labels.series(), 6);
        for number in 0..labels.series() {
            let mut shown: Vec<LabelPair> = labels
                .shown(number)
                .into_iter()
                .map(|label| {
                    let mut pair = LabelPair::default();
                    pair.set_name(label.key.to_string());
                    pair.set_value(label.value.to_string());
                    pair
                })
                .collect();
            assert_eq!(labels.found(&shown), Some(number));
            shown[0].set_value("d".to_owned());
            assert_eq!(labels.found(&shown), None);
        }
        assert_eq!((labels.number(&[1, 1]), labels.number(&[3, 0])), (Some(3), None));
        assert_eq!(Labels::of(&[]).series(), 1, "without labels there is one series");
        assert_eq!(Labels::of(&[]).number(&[]), Some(0));
    }
}
