//! The dependency check: reads `cargo metadata`, asks nobody else.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{command, licence, policy};

pub(crate) fn check() -> Result<()> {
    let arguments =
        ["metadata", "--format-version", "1", "--locked", "--filter-platform", "x86_64-unknown-linux-gnu"];
    let metadata: Value = serde_json::from_str(&command::cargo(&arguments).capture()?)?;
    let problems = problems(&metadata)?;
    if problems.is_empty() {
        return Ok(());
    }
    bail!("{}", problems.join("\n"));
}

/// One sentence per breach of the policy.
fn problems(metadata: &Value) -> Result<Vec<String>> {
    let packages = metadata["packages"].as_array().context("metadata without packages")?;
    let mut found = Vec::new();
    let mut names = BTreeMap::new();
    for package in packages {
        let name = text(package, "name")?;
        names.insert(text(package, "id")?, name);
        let label = format!("{name} {}", text(package, "version")?);
        if let Some((_, reason)) = policy::BANNED.iter().find(|(banned, _)| *banned == name) {
            found.push(format!("{label}: banned: {reason}"));
        }
        if let Some(source) = package["source"].as_str()
            && !policy::SOURCES.contains(&source)
        {
            found.push(format!("{label}: comes from {source}, not from crates.io"));
        }
        match package["license"].as_str() {
            None => found.push(format!("{label}: names no licence")),
            Some(expression) => match licence::allowed(expression, policy::LICENCES) {
                Ok(true) => {}
                Ok(false) => found.push(format!("{label}: licence {expression} isn't in the list")),
                Err(error) => found.push(format!("{label}: {error}")),
            },
        }
    }
    let linked = closure(metadata, &names)?;
    for name in linked.iter().filter(|name| !policy::SUPERVISOR_LINKS.contains(name)) {
        found.push(format!(
            "{} links {name}, which isn't in its list (xtask/src/policy.rs)",
            policy::SUPERVISOR
        ));
    }
    Ok(found)
}

/// Names of what ends up in the supervisor: normal dependencies only, over all levels.
fn closure<'a>(metadata: &'a Value, names: &BTreeMap<&'a str, &'a str>) -> Result<BTreeSet<&'a str>> {
    let nodes = metadata["resolve"]["nodes"].as_array().context("metadata without a dependency graph")?;
    let mut edges: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for node in nodes {
        let dependencies = node["deps"].as_array().context("a node without deps")?;
        let normal = dependencies.iter().filter(|dependency| {
            dependency["dep_kinds"]
                .as_array()
                .is_some_and(|kinds| kinds.iter().any(|kind| kind["kind"].is_null()))
        });
        edges.insert(
            text(node, "id")?,
            normal.map(|dependency| text(dependency, "pkg")).collect::<Result<_>>()?,
        );
    }
    let start = names.iter().find(|(_, name)| **name == policy::SUPERVISOR).map(|(id, _)| *id);
    let mut open = vec![start.with_context(|| format!("there is no package {}", policy::SUPERVISOR))?];
    let mut seen = BTreeSet::new();
    while let Some(id) = open.pop() {
        if seen.insert(id) {
            open.extend(edges.get(id).into_iter().flatten());
        }
    }
    Ok(seen.into_iter().filter_map(|id| names.get(id).copied()).collect())
}

fn text<'a>(value: &'a Value, key: &str) -> Result<&'a str> {
    value[key].as_str().with_context(|| format!("metadata: `{key}` is missing"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const INDEX: &str = "registry+https://github.com/rust-lang/crates.io-index";

    fn metadata(extra: Value, kind: Value) -> Value {
        let supervisor = json!({"id": "s", "name": "lastword-supervisor", "version": "1.0.0", "source": null, "license": "MIT OR Apache-2.0"});
        json!({"packages": [supervisor, extra], "resolve": {"nodes": [
            {"id": "s", "deps": [{"pkg": "x", "dep_kinds": [{"kind": kind}]}]}, {"id": "x", "deps": []}]}})
    }

    fn package(name: &str, source: &str, licence: &str) -> Value {
        json!({"id": "x", "name": name, "version": "1.0.0", "source": source, "license": licence})
    }

    #[test]
    fn what_is_allowed_passes() {
        let good = metadata(package("libc", INDEX, "MIT"), Value::Null);
        assert_eq!(problems(&good).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn each_breach_is_named() {
        let cases = [
            (package("openssl-sys", INDEX, "MIT"), "banned"),
            (package("libc", "git+https://example.org/x", "MIT"), "not from crates.io"),
            (package("libc", INDEX, "GPL-3.0"), "GPL-3.0"),
            (package("tokio", INDEX, "MIT"), "links tokio"),
        ];
        for (package, word) in cases {
            let found = problems(&metadata(package, Value::Null)).unwrap().join("\n");
            assert!(found.contains(word), "{word}: {found}");
        }
    }

    #[test]
    fn a_build_dependency_isnt_linked() {
        let build = metadata(package("cc", INDEX, "MIT"), json!("build"));
        assert_eq!(problems(&build).unwrap(), Vec::<String>::new());
    }
}
