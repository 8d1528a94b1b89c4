//! SPDX expressions: is there a way to use this crate under the licences we allow?

use anyhow::{Result, bail};

/// Whether `expression` can be met with licences of `allowed` alone.
///
/// `WITH` is read as part of the name (`Apache-2.0 WITH LLVM-exception`), `/` as the old way to write `OR`.
///
/// # Errors
/// When the expression isn't one.
pub(crate) fn allowed(expression: &str, allowed: &[&str]) -> Result<bool> {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let mut parser = Parser { words: spaced.split_whitespace().collect(), at: 0, allowed };
    let answer = parser.any()?;
    if parser.at != parser.words.len() {
        bail!("`{expression}` isn't a licence expression");
    }
    Ok(answer)
}

struct Parser<'a> {
    words: Vec<&'a str>,
    at: usize,
    allowed: &'a [&'a str],
}

impl<'a> Parser<'a> {
    fn any(&mut self) -> Result<bool> {
        let mut answer = self.all()?;
        while self.take("OR") {
            // Not `||`: the right side has to be read in any case.
            answer |= self.all()?;
        }
        Ok(answer)
    }

    fn all(&mut self) -> Result<bool> {
        let mut answer = self.one()?;
        while self.take("AND") {
            answer &= self.one()?;
        }
        Ok(answer)
    }

    fn one(&mut self) -> Result<bool> {
        if self.take("(") {
            let answer = self.any()?;
            if !self.take(")") {
                bail!("a bracket isn't closed");
            }
            return Ok(answer);
        }
        let mut name = self.next()?.to_owned();
        if self.take("WITH") {
            name = format!("{name} WITH {}", self.next()?);
        }
        Ok(self.allowed.contains(&name.as_str()))
    }

    fn take(&mut self, word: &str) -> bool {
        let found = self.words.get(self.at) == Some(&word);
        self.at += usize::from(found);
        found
    }

    fn next(&mut self) -> Result<&'a str> {
        match self.words.get(self.at) {
            Some(word) if !matches!(*word, "AND" | "OR" | "WITH" | "(" | ")") => {
                self.at += 1;
                Ok(word)
            }
            _ => bail!("a licence name is missing"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &[&str] = &["MIT", "Apache-2.0", "Unicode-3.0", "Apache-2.0 WITH LLVM-exception"];

    #[test]
    fn one_of_several_is_enough_and_all_of_all_are_needed() {
        for yes in ["MIT", "MIT OR GPL-3.0", "GPL-2.0/MIT", "(MIT OR GPL-3.0) AND Unicode-3.0"] {
            assert!(allowed(yes, OURS).unwrap(), "{yes}");
        }
        for no in ["GPL-3.0", "MIT AND GPL-3.0", "GPL-3.0 AND (MIT OR Apache-2.0)", "Apache-2.0 WITH X"] {
            assert!(!allowed(no, OURS).unwrap(), "{no}");
        }
        assert!(allowed("Apache-2.0 WITH LLVM-exception OR GPL-3.0", OURS).unwrap());
    }

    #[test]
    fn nonsense_is_an_error() {
        for bad in ["", "MIT OR", "(MIT", "MIT Apache-2.0", "OR MIT"] {
            assert!(allowed(bad, OURS).is_err(), "{bad}");
        }
    }
}
