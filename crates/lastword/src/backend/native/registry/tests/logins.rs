//! Logins: how they are found, to whom they are shown, and where they must not appear.

use std::fs;
use std::process::Command;
use std::time::Duration;

use super::super::credentials::{Found, Login, ask, find};
use super::super::{Error, Pull};
use super::server::{Answer, Asked, End, Packed, Server, ok, status};
use super::{Lab, hello};

/// `user:open sesame`.
const BASIC: &str = "Basic dXNlcjpvcGVuIHNlc2FtZQ==";
const SECRETS: [&str; 4] = ["open sesame", "dXNlcjpvcGVuIHNlc2FtZQ", "identity7", "token7"];

fn config(lab: &Lab, text: &str) {
    fs::write(lab.docker().join("config.json"), text).unwrap();
}

fn password(lab: &Lab, host: &str) {
    config(lab, &format!(r#"{{"auths": {{"{host}": {{"auth": "dXNlcjpvcGVuIHNlc2FtZQ=="}}}}}}"#));
}

/// Lets in who shows `token7`, and gives that to whom `allowed` lets in.
fn with_tokens(
    allowed: impl Fn(&Asked) -> bool + Send + 'static,
) -> impl FnMut(&Asked) -> Option<Answer> + Send {
    move |asked| {
        let host = asked.header("host").unwrap();
        if asked.path.starts_with("/token") {
            return Some(if allowed(asked) { ok(r#"{"token": "token7"}"#) } else { status(401) });
        }
        let challenge =
            format!(r#"Bearer realm="http://{host}/token?a=b",service="the service",scope="everything""#);
        (asked.header("authorization") != Some("Bearer token7"))
            .then(|| status(401).with("WWW-Authenticate", challenge))
    }
}

fn no_secrets(error: &Error, text: &str) {
    for secret in SECRETS {
        assert!(!text.contains(secret) && !format!("{error:?}").contains(secret), "{text}\n{error:?}");
    }
}

#[test]
fn a_token_for_nobody_in_particular() {
    let lab = Lab::new();
    let server =
        Server::start(Packed::saying(b"hi"), with_tokens(|asked| asked.header("authorization").is_none()));
    assert_eq!(hello(&lab.pull(&server.name(), Pull::Missing).unwrap()), b"hi");
    let asked = server.asked();
    let tokens: Vec<_> = asked.iter().filter(|asked| asked.path.starts_with("/token")).collect();
    // One repository, and reading only, whatever the registry would like us to ask for.
    let wanted = "/token?a=b&scope=repository%3Ax%2Fy%3Apull&service=the+service";
    assert_eq!(tokens.iter().map(|asked| asked.path.as_str()).collect::<Vec<_>>(), [wanted]);
}

#[test]
fn a_password_leads_to_a_token() {
    let lab = Lab::new();
    let server = Server::start(
        Packed::saying(b"hi"),
        with_tokens(|asked| asked.header("authorization") == Some(BASIC)),
    );
    let (error, text) = lab.fail(&server.name());
    assert!(matches!(error, Error::Unauthorized { .. }) && text.contains("docker login"), "{text}");
    password(&lab, &server.host);
    assert_eq!(hello(&lab.pull(&server.name(), Pull::Missing).unwrap()), b"hi");
    for asked in server.asked() {
        let shown = asked.header("authorization");
        assert!(
            shown != Some(BASIC) || asked.path.starts_with("/token"),
            "to the token server only: {asked:?}"
        );
    }
}

#[test]
fn an_identity_leads_to_a_token() {
    let lab = Lab::new();
    let server = Server::start(
        Packed::saying(b"hi"),
        with_tokens(|asked| asked.method == "POST" && asked.body.contains("refresh_token=identity7")),
    );
    config(
        &lab,
        &format!(r#"{{"auths": {{"{}": {{"auth": "eDp5", "identitytoken": "identity7"}}}}}}"#, server.host),
    );
    assert_eq!(hello(&lab.pull(&server.name(), Pull::Missing).unwrap()), b"hi");
    let asked = server.asked();
    let post = asked.iter().find(|asked| asked.method == "POST").unwrap();
    assert!(post.body.contains("grant_type=refresh_token") && !post.path.contains("identity7"), "{post:?}");
}

#[test]
fn an_identity_follows_nobody() {
    let lab = Lab::new();
    let elsewhere = Server::of(Packed::saying(b"hi"));
    let (to, mut tokens) = (format!("http://{}/token", elsewhere.host), with_tokens(|_| true));
    let server = Server::start(Packed::saying(b"hi"), move |asked| match asked.path.starts_with("/token") {
        true => Some(status(307).with("Location", to.clone())),
        false => tokens(asked),
    });
    config(&lab, &format!(r#"{{"auths": {{"{}": {{"identitytoken": "identity7"}}}}}}"#, server.host));
    let (error, text) = lab.fail(&server.name());
    no_secrets(&error, &text);
    assert_eq!(elsewhere.paths().len(), 0);
}

#[test]
fn a_password_is_enough_for_some() {
    let lab = Lab::new();
    let server = Server::start(Packed::saying(b"hi"), |asked| {
        let challenge = status(401).with("WWW-Authenticate", "Basic realm=\"x\"");
        (asked.header("authorization") != Some(BASIC)).then_some(challenge)
    });
    password(&lab, &format!("https://{}/v1/", server.host));
    assert_eq!(hello(&lab.pull(&server.name(), Pull::Missing).unwrap()), b"hi");
}

#[test]
fn a_refused_login_is_told_and_not_shown() {
    let lab = Lab::new();
    for with_token in [true, false] {
        let mut tokens = with_tokens(|_| false);
        let server = Server::start(Packed::saying(b"hi"), move |asked| match with_token {
            true => tokens(asked),
            false => Some(status(401).with("WWW-Authenticate", "Basic")),
        });
        password(&lab, &server.host);
        let (error, text) = lab.fail(&server.name());
        assert!(matches!(error, Error::Unauthorized { logged_in: true, .. }), "{error:?}");
        assert!(text.contains("was refused"), "{text}");
        no_secrets(&error, &text);
        assert!(server.paths().len() <= 3, "not again and again: {:?}", server.paths());
    }
}

#[test]
fn a_login_is_for_the_registry_alone() {
    let (lab, packed) = (Lab::new(), Packed::saying(b"hi"));
    let (elsewhere, path) = (Server::of(packed.clone()), packed.layer_path());
    let to = format!("http://{}{path}", elsewhere.host);
    let mut tokens = with_tokens(|_| true);
    let server = Server::start(packed, move |asked| {
        tokens(asked).or_else(|| (asked.path == path).then(|| status(307).with("Location", to.clone())))
    });
    lab.pull(&server.name(), Pull::Missing).unwrap();
    let there = elsewhere.asked();
    assert_eq!(there.len(), 1);
    assert!(there.iter().all(|asked| asked.header("authorization").is_none()), "{there:?}");
}

#[test]
fn who_we_were_sent_to_cannot_ask_for_the_login() {
    let (lab, packed) = (Lab::new(), Packed::saying(b"hi"));
    let elsewhere = Server::start(packed.clone(), |_| Some(status(401).with("WWW-Authenticate", "Basic")));
    let (to, path) = (format!("http://{}/", elsewhere.host), packed.layer_path());
    let server = Server::start(packed, move |asked| {
        (asked.path == path).then(|| status(307).with("Location", to.clone()))
    });
    password(&lab, &server.host);
    let (error, _) = lab.fail(&server.name());
    assert!(matches!(error, Error::Unauthorized { .. }), "{error:?}");
    assert!(elsewhere.asked().iter().all(|asked| asked.header("authorization").is_none()));
    assert!(server.asked().iter().all(|asked| asked.header("authorization").is_none()));
}

#[test]
fn a_token_server_has_to_be_safe_and_to_give_a_token() {
    let bad = ["http://192.0.2.1/token", "ftp://127.0.0.1/", "not an address"];
    for realm in bad {
        let lab = Lab::new();
        let challenge = format!("Bearer realm=\"{realm}\"");
        let server = Server::start(Packed::saying(b"hi"), move |_| {
            Some(status(401).with("WWW-Authenticate", challenge.clone()))
        });
        let (error, text) = lab.fail(&server.name());
        assert!(matches!(error, Error::Challenge { .. }), "{realm}: {text}");
    }
    let answers = [
        ok(r#"{"token": "a\r\nX: y"}"#),
        ok(r#"{"token": 7}"#),
        ok("token7"),
        ok("{}"),
        ok(r#"{"token": "token7"}"#).ending(End::Endless),
    ];
    for answer in answers {
        let lab = Lab::new();
        let mut tokens = with_tokens(|_| true);
        let server = Server::start(Packed::saying(b"hi"), move |asked| {
            if asked.path.starts_with("/token") { Some(answer.clone()) } else { tokens(asked) }
        });
        let (error, text) = lab.fail(&server.name());
        assert!(matches!(error, Error::Challenge { .. }) && text.contains("gave no token"), "{text}");
        no_secrets(&error, &text);
    }
}

#[test]
fn helpers_are_asked() {
    let helped = |script: &str, time| {
        let mut helper = Command::new("sh");
        helper.args(["-c", script, "docker-credential-x"]);
        ask(helper, "ghcr.io", time)
    };
    let long = Duration::from_secs(60);
    let says = r#"read key; test "$1" = get && printf '{"Username": "u", "Secret": "%s"}' "$key""#;
    let login = Login::Password { user: "u".into(), secret: "ghcr.io".into() };
    assert_eq!(helped(says, long), Ok(Some(login)));
    let token = r#"printf '{"Username": "<token>", "Secret": "identity7"}'"#;
    assert_eq!(helped(token, long), Ok(Some(Login::Identity("identity7".into()))));
    let unknown = "echo credentials not found in native keychain; exit 1";
    assert_eq!(helped(unknown, long), Ok(None));
    for (script, why) in [
        ("echo token7; exit 1", "failed"),
        ("echo token7", "gave no login"),
        ("exec cat /dev/zero", "says too much"),
    ] {
        assert_eq!(helped(script, long), Err(why));
    }
    assert_eq!(helped("exec sleep 1000", Duration::from_millis(100)), Err("does not answer"));
}

#[test]
fn the_file_of_docker_is_read_as_docker_reads_it() {
    let lab = Lab::new();
    let look = |registry: &str| find(Some(&lab.docker()), registry, Duration::from_secs(60));
    assert_eq!(look("ghcr.io"), Found::default());
    assert_eq!(find(None, "ghcr.io", Duration::ZERO), Found::default());
    config(
        &lab,
        r#"{"auths": {"https://index.docker.io/v1/": {"auth": "dXNlcjpvcGVuIHNlc2FtZQ"}, "GHCR.io": {"registrytoken": "t"},
            "quay.io": {}, "bad.io": {"auth": "!"}, "plain.io:5000": {"username": "a", "password": "b"}}, "HttpHeaders": {}}"#,
    );
    let password = |user: &str, secret: &str| Login::Password { user: user.into(), secret: secret.into() };
    assert_eq!(look("docker.io").login, Some(password("user", "open sesame")));
    assert_eq!(look("ghcr.io").login, Some(Login::Bearer("t".into())));
    assert_eq!(look("plain.io:5000").login, Some(password("a", "b")));
    for none in ["quay.io", "bad.io", "plain.io", "io"] {
        assert_eq!(look(none), Found::default());
    }
    config(&lab, r#"{"credHelpers": {"ghcr.io": "../../evil"}, "credsStore": "no-such-helper-anywhere"}"#);
    assert!(look("ghcr.io").trouble.unwrap().contains("no name of a program"));
    assert!(look("quay.io").trouble.unwrap().contains("is not installed"));
    // A parser would show what it stumbled over.
    for bad in
        [r#"{"auths": {"ghcr.io": {"auth": ["open sesame"]}}}"#, r#"{"auths": "open sesame"}"#, "open sesame"]
    {
        config(&lab, bad);
        let trouble = look("ghcr.io").trouble.unwrap();
        assert!(trouble.contains("config.json") && !trouble.contains("sesame"), "{trouble}");
    }
}

#[test]
fn trouble_with_logins_matters_only_where_one_is_needed() {
    let lab = Lab::new();
    config(&lab, "{");
    let open = Server::of(Packed::saying(b"hi"));
    lab.pull(&open.name(), Pull::Missing).unwrap();
    let lab = Lab::new();
    config(&lab, "{");
    let closed =
        Server::start(Packed::saying(b"hi"), with_tokens(|asked| asked.header("authorization").is_some()));
    let (error, text) = lab.fail(&closed.name());
    assert!(matches!(error, Error::Unauthorized { .. }) && text.contains("config.json"), "{text}");
}
