//! What the demo says at the end: one table, and what is wrong, if anything is.

use std::fmt;

/// The outcome of a demo.
#[derive(Debug, Default)]
pub struct Report {
    /// Name and value of each line of the table.
    lines: Vec<(String, String)>,
    /// What is not as it must be; the demo has failed when there is any.
    problems: Vec<String>,
}

impl Report {
    /// What is not as it must be.
    #[must_use]
    pub fn problems(&self) -> &[String] {
        &self.problems
    }

    pub(super) fn line(&mut self, name: &str, value: impl Into<String>) {
        self.lines.push((name.to_owned(), value.into()));
    }

    /// Notes a problem unless `holds`.
    pub(super) fn require(&mut self, holds: bool, problem: impl FnOnce() -> String) {
        if !holds {
            self.problems.push(problem());
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wide = |texts: &mut dyn Iterator<Item = &String>| texts.map(|text| text.chars().count()).max().unwrap_or(0);
        let left = wide(&mut self.lines.iter().map(|(name, _)| name));
        let right = wide(&mut self.lines.iter().map(|(_, value)| value));
        let rule = format!("+-{}-+-{}-+", "-".repeat(left), "-".repeat(right));
        writeln!(f, "{rule}")?;
        for (name, value) in &self.lines {
            writeln!(f, "| {name:left$} | {value:right$} |")?;
        }
        writeln!(f, "{rule}")?;
        for problem in &self.problems {
            writeln!(f, "PROBLEM: {problem}")?;
        }
        Ok(())
    }
}

/// A count with its thousands apart: `26,096`.
pub(super) fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_stand_apart() {
        assert_eq!([0, 999, 1_000, 26_096, 1_234_567].map(grouped), ["0", "999", "1,000", "26,096", "1,234,567"]);
    }

    #[test]
    fn a_table_has_one_width_and_names_its_problems() {
        let mut report = Report::default();
        report.line("commands", "26,096");
        report.line("rollback", "0.4 s");
        report.require(true, || "never said".to_owned());
        report.require(false, || "2 records differ".to_owned());
        let text = report.to_string();
        let widths: Vec<usize> = text.lines().take(4).map(str::len).collect();
        assert!(widths.windows(2).all(|pair| pair[0] == pair[1]), "{text}");
        assert!(text.ends_with("PROBLEM: 2 records differ\n"));
        assert_eq!(report.problems().len(), 1);
    }
}
