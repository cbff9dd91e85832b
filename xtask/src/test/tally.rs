//! Counting what test programs report.

/// How one test ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It ran and passed.
    Passed,
    /// It ran and failed.
    Failed,
    /// It did not run.
    Skipped,
}

/// Counts, and the names they are made of where the program gave them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Tests that ran and passed.
    pub passed: u64,
    /// Tests that ran and failed, and programs that ended badly without saying which.
    pub failed: u64,
    /// Tests that did not run.
    pub skipped: u64,
    /// Each named test.
    pub outcomes: Vec<(String, Outcome)>,
}

impl Tally {
    /// Adds another program's results.
    pub fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.outcomes.extend(other.outcomes);
    }

    /// Whether a test of this name ran.
    pub fn ran(&self, name: &str) -> bool {
        self.outcomes.iter().any(|(found, outcome)| found == name && *outcome != Outcome::Skipped)
    }

    /// Names of the failed tests.
    pub fn names_of_failed(&self) -> impl Iterator<Item = &str> {
        let failed = self.outcomes.iter().filter(|(_, outcome)| *outcome == Outcome::Failed);
        failed.map(|(name, _)| name.as_str())
    }

    /// Counts results that are known already.
    pub fn of_named(results: Vec<(String, bool)>) -> Self {
        let mut tally = Self::default();
        for (name, good) in results {
            if good {
                tally.passed += 1;
            } else {
                tally.failed += 1;
            }
            tally.outcomes.push((name, if good { Outcome::Passed } else { Outcome::Failed }));
        }
        tally
    }

    /// Reads the output of libtest or libtest-mimic. The closing lines count; the lines before them name.
    pub fn of_libtest(output: &str, succeeded: bool) -> Self {
        let mut tally = Self::default();
        for line in output.lines() {
            if let Some(counts) = line.strip_prefix("test result: ") {
                tally.passed += count(counts, "passed");
                tally.failed += count(counts, "failed");
                tally.skipped += count(counts, "ignored");
            } else if let Some(entry) = line.strip_prefix("test ").and_then(named_outcome) {
                tally.outcomes.push(entry);
            }
        }
        tally.with_status(succeeded)
    }

    /// Reads a scenario run's last line, `N passed, N failed, N skipped`.
    pub fn of_summary(output: &str, succeeded: bool) -> Self {
        let last = output.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
        let tally = Self {
            passed: count(last, "passed"),
            failed: count(last, "failed"),
            skipped: count(last, "skipped"),
            outcomes: Vec::new(),
        };
        tally.with_status(succeeded)
    }

    /// A program that ended badly without a failed test (a crash, a compile error) is a failure too.
    fn with_status(mut self, succeeded: bool) -> Self {
        if !succeeded && self.failed == 0 {
            self.failed = 1;
        }
        self
    }
}

/// The number before `word` in `12 passed; 0 failed, …`.
fn count(text: &str, word: &str) -> u64 {
    let words: Vec<&str> = text.split([' ', ';', ',', '.']).filter(|part| !part.is_empty()).collect();
    let number = words.windows(2).find(|pair| pair[1] == word).map(|pair| pair[0].parse());
    number.and_then(Result::ok).unwrap_or(0)
}

fn named_outcome(line: &str) -> Option<(String, Outcome)> {
    let (name, verdict) = line.rsplit_once(" ... ")?;
    let outcome = match verdict.split([',', ' ']).next()? {
        "ok" => Outcome::Passed,
        "FAILED" => Outcome::Failed,
        "ignored" => Outcome::Skipped,
        _ => return None,
    };
    Some((name.trim().to_owned(), outcome))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIBTEST: &str = "\nrunning 3 tests\ntest a::b ... ok\ntest a::c ... ignored, needs a kernel\n\
        test a::d ... FAILED\n\nfailures:\n    a::d\n\n\
        test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 4 filtered out; finished in 0.01s\n";

    #[test]
    fn counts_by_the_closing_line_and_names_tests() {
        let tally = Tally::of_libtest(LIBTEST, false);
        assert_eq!((tally.passed, tally.failed, tally.skipped), (1, 1, 1));
        assert!(tally.ran("a::b") && tally.ran("a::d"));
        assert!(!tally.ran("a::c"), "ignored is not run");
        assert_eq!(tally.names_of_failed().collect::<Vec<_>>(), ["a::d"]);
    }

    #[test]
    fn reads_libtest_mimic_padding() {
        let tally = Tally::of_libtest(
            "test short          ... ok\ntest much_longer_one ... ok\n\ntest result: ok. 2 passed; 0 failed; 0 ignored; 0 \
             measured; 0 filtered out; finished in 1.00s\n",
            true,
        );
        assert!(tally.ran("short") && tally.ran("much_longer_one"));
        assert_eq!(tally.passed, 2);
    }

    #[test]
    fn a_crash_is_a_failure() {
        assert_eq!(Tally::of_libtest("running 3 tests\n", false).failed, 1);
        assert_eq!(Tally::of_libtest(LIBTEST, false).failed, 1);
        assert_eq!(Tally::of_summary("", false).failed, 1);
    }

    #[test]
    fn reads_a_scenario_summary() {
        let tally = Tally::of_summary("rs-1 reverse_shell ok\n40 passed, 2 failed, 3 skipped\n\n", false);
        assert_eq!((tally.passed, tally.failed, tally.skipped), (40, 2, 3));
    }

    #[test]
    fn adds_up_several_programs() {
        let mut total = Tally::of_libtest(LIBTEST, false);
        total.add(Tally::of_summary("1 passed, 0 failed, 0 skipped", true));
        assert_eq!((total.passed, total.failed, total.skipped), (2, 1, 1));
    }
}
