//! How many passed and failed, read from what the test runners print.

use anyhow::Result;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

impl Count {
    pub(crate) fn add(&mut self, other: Count) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }

    /// A step that is no test counts as one, so that the closing line can't hide it.
    pub(crate) fn step(&mut self, name: &str, result: Result<()>) {
        match result {
            Ok(()) => self.passed += 1,
            Err(error) => {
                println!("{name}: {error:#}");
                self.failed += 1;
            }
        }
    }

    /// The end of a run of tests. A runner that failed without a failed test (it didn't compile) is a failure.
    pub(crate) fn close(mut self, succeeded: bool) -> Self {
        if !succeeded && self.failed == 0 {
            self.failed = 1;
        }
        self
    }

    /// One line of `cargo test`; others are passed over.
    pub(crate) fn libtest(&mut self, line: &str) {
        // test result: FAILED. 3 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.00s
        if let Some(rest) = line.strip_prefix("test result: ") {
            self.words(rest.split_once(". ").map_or("", |(_, counts)| counts), ';');
        }
    }

    /// One line of `cargo nextest run`. It shows what failed tests printed, so their own results are passed over.
    pub(crate) fn nextest(&mut self, line: &str) {
        //      Summary [   0.123s] 12 tests run: 10 passed (2 slow), 1 failed, 1 timed out, 3 skipped
        if line.starts_with("     Summary [") {
            self.words(line.rsplit_once("run: ").map_or("", |(_, counts)| counts), ',');
        }
    }

    fn words(&mut self, counts: &str, separator: char) {
        for part in counts.split(separator) {
            let mut words = part.split_whitespace();
            let Some(number) = words.next().and_then(|word| word.parse::<u64>().ok()) else { continue };
            match words.next() {
                Some("passed") => self.passed += number,
                Some("failed" | "timed" | "exec") => self.failed += number,
                Some("skipped" | "ignored") => self.skipped += number,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(read: fn(&mut Count, &str), lines: &[&str]) -> Count {
        let mut count = Count::default();
        lines.iter().for_each(|line| read(&mut count, line));
        count
    }

    #[test]
    fn reads_the_summary_of_nextest() {
        let line =
            "     Summary [   0.123s] 14 tests run: 10 passed (2 slow), 2 failed, 2 timed out, 3 skipped";
        assert_eq!(count(Count::nextest, &[line]), Count { passed: 10, failed: 4, skipped: 3 });
        let cut = "     Summary [   1.0s] 2/9 tests run: 1 passed, 1 failed, 0 skipped";
        assert_eq!(count(Count::nextest, &[cut]), Count { passed: 1, failed: 1, skipped: 0 });
    }

    #[test]
    fn what_a_failed_test_printed_is_not_counted_again() {
        let inner = "    test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 9 filtered out; finished in 0.1s";
        let end = "     Summary [   0.1s] 10 tests run: 9 passed, 1 failed, 0 skipped";
        assert_eq!(
            count(Count::nextest, &[inner, inner.trim(), end]),
            Count { passed: 9, failed: 1, skipped: 0 }
        );
    }

    #[test]
    fn adds_up_the_binaries_of_cargo_test() {
        let ok =
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 5 filtered out; finished in 0.00s";
        let bad =
            "test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1s";
        assert_eq!(
            count(Count::libtest, &[ok, "test a ... ok", bad]),
            Count { passed: 5, failed: 1, skipped: 1 }
        );
    }

    #[test]
    fn a_runner_that_failed_without_a_count_is_a_failure() {
        assert_eq!(Count::default().close(false).failed, 1);
        assert_eq!(Count::default().close(true).failed, 0);
    }
}
