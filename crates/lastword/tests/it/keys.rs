//! `lastword keys`: tokens are shown once, kept as digests, listed without them, and revoked.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::PathBuf;

use lastword_api::Timestamp;
use serde_json::Value;

use crate::lab::{Ended, Lab, needs_root};

fn keys_file(lab: &Lab) -> PathBuf {
    lab.data.join("keys.json")
}

fn printed(ended: &Ended) -> String {
    String::from_utf8(ended.stdout.clone()).unwrap()
}

fn json(ended: &Ended) -> Value {
    serde_json::from_slice(&ended.stdout).unwrap()
}

/// Id and secret of a printed token.
fn parts(token: &str) -> (String, String) {
    let (id, secret) = token.trim_end().strip_prefix("lw_").unwrap().split_once('_').unwrap();
    (id.to_owned(), secret.to_owned())
}

#[test]
fn a_key_from_its_making_to_its_end() {
    let lab = Lab::new();
    let made =
        lab.lastword(["keys", "create", "--name", "ci", "--tenant", "acme", "--scope", "read"]).expect(0);
    let token = printed(&made);
    let (id, secret) = parts(&token);
    // 256 bits in base64 without padding.
    assert_eq!((secret.len(), token.lines().count()), (43, 1), "{token}");
    assert!(made.message().contains(&id) && !made.message().contains(&secret), "{}", made.message());

    let listed = lab.lastword(["keys", "list", "--json"]).expect(0);
    assert!(!printed(&listed).contains(&secret));
    let item = &json(&listed)["items"][0];
    assert_eq!(
        (&item["id"], &item["name"], &item["tenant"]),
        (&id.clone().into(), &"ci".into(), &"acme".into())
    );
    assert_eq!((&item["scopes"], &item["expires_at"]), (&serde_json::json!(["read"]), &Value::Null));
    let table = printed(&lab.lastword(["keys", "list"]).expect(0));
    assert!(table.contains(&id) && table.contains("acme") && table.contains("never"), "{table}");

    assert_eq!(printed(&lab.lastword(["keys", "revoke", &id]).expect(0)), format!("{id}\n"));
    assert_eq!(json(&lab.lastword(["keys", "list", "--json"]).expect(0))["items"], serde_json::json!([]));
    let again = lab.lastword(["keys", "revoke", &id]).expect(1);
    assert!(
        again.message().contains("there is no key") && again.message().contains("hint:"),
        "{}",
        again.message()
    );
}

#[test]
fn the_file_has_digests_and_one_reader() {
    let lab = Lab::new();
    let (_, secret) = parts(&printed(&lab.lastword(["keys", "create"]).expect(0)));
    let text = std::fs::read_to_string(keys_file(&lab)).unwrap();
    assert!(!text.contains(&secret), "{text}");
    let document: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(document["version"], 1);
    let key = &document["keys"][0];
    assert_eq!((&key["tenant"], &key["scopes"]), (&"default".into(), &serde_json::json!(["run", "read"])));
    assert_eq!(key["digest"].as_str().unwrap().len(), 64);
    let mode = std::fs::metadata(keys_file(&lab)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(std::fs::metadata(&lab.data).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn json_has_the_token_and_what_it_may_do() {
    let lab = Lab::new();
    let options = ["keys", "create", "--json", "--scope", "run", "--scope", "admin", "--expires", "90d"];
    let made = json(&lab.lastword(options).expect(0));
    assert_eq!(made["scopes"], serde_json::json!(["run", "admin"]));
    assert_eq!(made["id"].as_str().unwrap(), parts(made["token"].as_str().unwrap()).0);
    let ns = |field: &str| made[field].as_str().unwrap().parse::<Timestamp>().unwrap().ns();
    // Both are taken from the clock, one after the other.
    assert_eq!((ns("expires_at") - ns("created_at") + 500_000_000) / 1_000_000_000, 90 * 86_400);
    assert_eq!(made["expired"], false);
}

#[test]
fn what_is_no_key() {
    let lab = Lab::new();
    for (options, says) in [
        (&["--tenant", "Acme Inc"][..], "no name of a tenant"),
        (&["--scope", "root"], "use run, read or admin"),
        (&["--scope", ""], "use run, read or admin"),
        (&["--expires", "0s"], "more than nothing"),
        (&["--expires", "soon"], "not a number with a unit"),
        (&["--name", &"x".repeat(101)], "at most 100 bytes"),
    ] {
        let ended = lab.lastword(["keys", "create"].iter().chain(options));
        assert!(ended.code() != 0 && ended.stdout.is_empty(), "{options:?}");
        assert!(ended.message().contains(says), "{options:?}: {}", ended.message());
    }
    assert!(!keys_file(&lab).exists());
}

#[test]
fn a_name_can_not_steer_the_terminal() {
    let lab = Lab::new();
    lab.lastword(["keys", "create", "--name", "\u{1b}[2Jx\n\u{202e}y"]).expect(0);
    let table = printed(&lab.lastword(["keys", "list"]).expect(0));
    assert!(
        !table.contains('\u{1b}') && !table.contains('\u{202e}') && table.lines().count() == 2,
        "{table:?}"
    );
}

#[test]
fn a_damaged_file_is_not_overwritten() {
    let lab = Lab::new();
    lab.lastword(["keys", "create"]).expect(0);
    let good = std::fs::read(keys_file(&lab)).unwrap();
    std::fs::write(keys_file(&lab), &good[..good.len() / 2]).unwrap();
    for command in [&["keys", "create"][..], &["keys", "list"], &["keys", "revoke", "abcdefghij"]] {
        let ended = lab.lastword(command).expect(1);
        assert!(ended.message().contains("keys.json is damaged"), "{}", ended.message());
    }
    assert_eq!(std::fs::read(keys_file(&lab)).unwrap(), &good[..good.len() / 2]);
}

#[test]
fn root_makes_keys_for_the_servers_user() {
    if !needs_root("becomes another user") {
        return;
    }
    let lab = Lab::new();
    std::fs::create_dir(&lab.data).unwrap();
    chown(&lab.data, Some(1001), Some(1002)).unwrap();
    lab.lastword(["keys", "create"]).expect(0);
    for name in ["keys.json", "keys.lock"] {
        let data = std::fs::metadata(lab.data.join(name)).unwrap();
        assert_eq!((data.uid(), data.gid()), (1001, 1002), "{name}");
    }
    chown(&lab.data, Some(0), Some(0)).unwrap();
}

#[test]
fn many_make_keys_at_a_time() {
    let lab = Lab::new();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| lab.lastword(["keys", "create"]).expect(0));
        }
    });
    assert_eq!(
        json(&lab.lastword(["keys", "list", "--json"]).expect(0))["items"].as_array().unwrap().len(),
        8
    );
}
