//! Reads the figures of a sidecar from its `/metrics` page, as Prometheus would.

/// One scrape.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    samples: Vec<Sample>,
}

#[derive(Clone, Debug)]
struct Sample {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

impl Sample {
    fn has(&self, labels: &[(&str, &str)]) -> bool {
        labels.iter().all(|(name, value)| self.label(name) == Some(*value))
    }

    fn label(&self, wanted: &str) -> Option<&str> {
        self.labels.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str())
    }
}

impl Figures {
    /// The figures on a page in Prometheus' text format; lines that cannot be read are left out.
    #[must_use]
    pub fn parse(page: &str) -> Self {
        let lines = page.lines().filter(|line| !line.starts_with('#'));
        Self { samples: lines.filter_map(sample).collect() }
    }

    /// The sum of all series of `name` that have these labels.
    #[must_use]
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        // `Sum` of no floats is minus zero, which would show in the table.
        self.samples.iter().filter(|one| one.name == name && one.has(labels)).map(|one| one.value).sum::<f64>() + 0.0
    }

    /// As [`Figures::sum`], as a count.
    #[must_use]
    pub fn count(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "counters are whole and not negative"
        )]
        let count = self.sum(name, labels).max(0.0) as u64;
        count
    }

    /// The `share` quantile (0 to 1) of what the histogram `name` was given since `earlier`, over all its series and in
    /// its unit; `None` without samples.
    ///
    /// Between two bounds it is interpolated, as `histogram_quantile` does.
    #[must_use]
    pub fn quantile_since(&self, earlier: &Self, name: &str, share: f64) -> Option<f64> {
        let before = earlier.buckets(name);
        let mut buckets = self.buckets(name);
        for (bound, count) in &mut buckets {
            let known = before.iter().find(|(other, _)| other.to_bits() == bound.to_bits());
            *count -= known.map_or(0.0, |(_, count)| *count);
        }
        let total = buckets.last()?.1;
        if total <= 0.0 {
            return None;
        }
        let rank = share * total;
        let (mut low, mut below) = (0.0, 0.0);
        for (bound, count) in buckets {
            if count >= rank {
                let inside = (count - below).max(f64::MIN_POSITIVE);
                return Some(if bound.is_finite() { low + (bound - low) * ((rank - below) / inside) } else { low });
            }
            (low, below) = (bound, count);
        }
        None
    }

    /// The upper bounds of a histogram, ascending, and how many samples lie below each, summed over its series.
    fn buckets(&self, name: &str) -> Vec<(f64, f64)> {
        let bucket = format!("{name}_bucket");
        let mut buckets: Vec<(f64, f64)> = Vec::new();
        for one in self.samples.iter().filter(|one| one.name == bucket) {
            let Some(bound) = one.label("le").and_then(|bound| bound.parse::<f64>().ok()) else { continue };
            match buckets.iter_mut().find(|(known, _)| known.to_bits() == bound.to_bits()) {
                Some((_, count)) => *count += one.value,
                None => buckets.push((bound, one.value)),
            }
        }
        buckets.sort_by(|left, right| left.0.total_cmp(&right.0));
        buckets
    }
}

/// `name{label="value",...} 1.5`; label values of ours have no quotes in them.
fn sample(line: &str) -> Option<Sample> {
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = match series.split_once('{') {
        Some((name, rest)) => (name, rest.strip_suffix('}')?),
        None => (series, ""),
    };
    let labels = labels
        .split("\",")
        .filter(|label| !label.is_empty())
        .filter_map(|label| label.split_once("=\""))
        .map(|(name, value)| (name.to_owned(), value.trim_end_matches('"').to_owned()))
        .collect();
    Some(Sample { name: name.to_owned(), labels, value: value.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# HELP parallax_reads_total Reads.\n\
        parallax_reads_total{kind=\"apikey\",store=\"redis\"} 3\n\
        parallax_reads_total{kind=\"apikey\",store=\"postgres\"} 4\n\
        parallax_outbox_depth 7\n\
        lag_bucket{kind=\"a\",le=\"0.1\"} 1\n\
        lag_bucket{kind=\"a\",le=\"0.2\"} 2\n\
        lag_bucket{kind=\"a\",le=\"+Inf\"} 2\n\
        lag_bucket{kind=\"b\",le=\"0.1\"} 1\n\
        lag_bucket{kind=\"b\",le=\"0.2\"} 2\n\
        lag_bucket{kind=\"b\",le=\"+Inf\"} 2\n";

    #[test]
    fn series_are_summed_by_their_labels() {
        let figures = Figures::parse(PAGE);
        assert_eq!(figures.count("parallax_reads_total", &[]), 7);
        assert_eq!(figures.count("parallax_reads_total", &[("store", "postgres")]), 4);
        assert_eq!(figures.count("parallax_outbox_depth", &[]), 7);
        assert_eq!(figures.count("nothing", &[]), 0);
    }

    #[test]
    fn a_quantile_is_interpolated_over_all_kinds() {
        let (figures, nothing) = (Figures::parse(PAGE), Figures::default());
        assert!((figures.quantile_since(&nothing, "lag", 0.5).unwrap() - 0.1).abs() < 1e-9);
        assert!((figures.quantile_since(&nothing, "lag", 0.75).unwrap() - 0.15).abs() < 1e-9);
        assert_eq!(figures.quantile_since(&nothing, "nothing", 0.5), None);
    }

    #[test]
    fn a_quantile_since_then_leaves_out_what_was_before() {
        let earlier = Figures::parse("lag_bucket{kind=\"a\",le=\"0.1\"} 1\nlag_bucket{kind=\"b\",le=\"0.1\"} 1\n");
        let figures = Figures::parse(PAGE);
        assert!(figures.quantile_since(&earlier, "lag", 0.5).unwrap() > 0.1);
        assert_eq!(figures.quantile_since(&figures, "lag", 0.5), None);
    }
}
