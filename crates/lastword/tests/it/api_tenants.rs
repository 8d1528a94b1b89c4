//! Keys over HTTP: what each scope allows, what a tenant sees, and when a key stops working.

use reqwest::Method;
use serde_json::{Value, json};

use crate::lab::{Lab, wait_for};
use crate::server::{Answer, Server};

fn key(lab: &Lab, options: &[&str]) -> String {
    let made = lab.lastword(["keys", "create"].iter().chain(options)).expect(0);
    String::from_utf8(made.stdout).unwrap().trim_end().to_owned()
}

/// Somebody with a key.
struct Caller<'a> {
    server: &'a Server,
    token: String,
}

impl Caller<'_> {
    fn ask(&self, line: &str, body: &str) -> Answer {
        let kind = if line.contains("/stdin") { "application/octet-stream" } else { "application/json" };
        self.ask_with(line, body, &[("content-type", kind)])
    }

    fn ask_with(&self, line: &str, body: &str, headers: &[(&str, &str)]) -> Answer {
        let (method, path) = line.split_once(' ').unwrap();
        let request = self.server.request(Method::from_bytes(method.as_bytes()).unwrap(), path);
        let mut request = request.bearer_auth(&self.token).body(body.to_owned());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.server.send(request)
    }

    fn run(&self, request: &Value) -> Value {
        self.ask("POST /v1/executions?wait=60s", &request.to_string()).expect(200).json()
    }
}

fn sh(code: &str) -> Value {
    json!({"runtime": "bash", "code": code})
}

/// Each method of each path that has an id in it, with this one, as the document of the API has them.
fn routes(server: &Server, execution: &str, batch: &str) -> Vec<String> {
    let document = server.get("/openapi.json").expect(200).json();
    let mut routes = Vec::new();
    for (path, item) in
        document["paths"].as_object().unwrap().iter().filter(|(path, _)| path.contains("{id}"))
    {
        let id = if path.starts_with("/v1/batches") { batch } else { execution };
        let path = path.replace("{id}", id).replace("{path}", "x");
        routes.extend(
            item.as_object().unwrap().keys().map(|method| format!("{} {path}", method.to_uppercase())),
        );
    }
    assert!(routes.len() >= 10, "{routes:?}");
    routes
}

#[test]
fn a_tenant_sees_nothing_of_another_on_any_route() {
    let lab = Lab::new();
    let tokens = [
        key(&lab, &["--tenant", "a", "--scope", "run,read"]),
        key(&lab, &["--tenant", "b", "--scope", "run,read"]),
        key(&lab, &["--tenant", "b", "--scope", "admin"]),
    ];
    let server = Server::start(&lab, &["--concurrency", "4"]);
    let [a, b, admin] = tokens.map(|token| Caller { server: &server, token });
    // One of each kind: ended with a file, running with open stdin, a batch; and one that the command line has made.
    let mut request = sh("echo hidden > x; echo hidden");
    request["outputs"] = json!(["x"]);
    let ended = a.run(&request)["id"].as_str().unwrap().to_owned();
    let open = json!({"runtime": "bash", "code": "cat", "stdin_open": true});
    let running = a.ask("POST /v1/executions", &open.to_string()).expect(202).id();
    let batch =
        a.ask("POST /v1/batches", &json!({"executions": [sh("true")]}).to_string()).expect(202).json();
    let batch = batch["id"].as_str().unwrap();
    let before = lab.ids();
    lab.lastword(["run", "--runtime", "bash", "-c", "echo local"]).expect(0);
    let local = lab.ids().into_iter().find(|id| !before.contains(id)).unwrap();
    for id in [&ended, &running, &local] {
        for line in routes(&server, id, batch) {
            for other in [&b, &admin] {
                let answer = other.ask(&line, "");
                assert_eq!(answer.status, 404, "{line}: {}", answer.text());
                // Nothing tells it from one that there never was.
                let none = "01900000-0000-7000-8000-000000000000";
                let never = other.ask(&line.replace(id.as_str(), none).replace(batch, none), "");
                let blind = |answer: &Answer| {
                    [id.as_str(), batch].iter().fold(answer.text(), |text, id| text.replace(id, none))
                };
                assert_eq!(blind(&answer), blind(&never), "{line}");
            }
        }
    }
    let mine = b.run(&sh("echo mine"))["id"].as_str().unwrap().to_owned();
    for caller in [&b, &admin] {
        for path in [
            "GET /v1/executions",
            "GET /v1/executions?include=output&limit=1000",
            "GET /v1/events?follow=false",
            "GET /v1/executions?status=running,succeeded,queued",
        ] {
            let text = caller.ask(path, "").expect(200).text();
            assert!(text.contains(&mine), "{path}: {text}");
            for hidden in [&ended, &running, &local, batch] {
                assert!(!text.contains(hidden), "{path} shows {hidden}");
            }
        }
    }
    // All that was asked for by others has done nothing.
    assert_eq!(a.ask(&format!("GET /v1/executions/{running}"), "").json()["status"], "running");
    assert_eq!(a.ask(&format!("GET /v1/executions/{ended}/files/x"), "").expect(200).text(), "hidden\n");
    a.ask(&format!("POST /v1/executions/{running}/stdin?close=true"), "mine\n").expect(200);
    let done = a.ask(&format!("GET /v1/executions/{running}?wait=60s"), "").json();
    assert_eq!((&done["status"], &done["stdout"]), (&json!("succeeded"), &json!("mine\n")));
    wait_for("the batch is done", || {
        let batch = a.ask(&format!("GET /v1/batches/{batch}"), "").expect(200).json();
        (batch["done"] == true).then_some(())
    });
}

#[test]
fn the_same_key_of_two_tenants_is_two_keys() {
    let lab = Lab::new();
    let tokens = ["a", "b"].map(|tenant| key(&lab, &["--tenant", tenant, "--scope", "run"]));
    let server = Server::start(&lab, &[]);
    let [a, b] = tokens.map(|token| Caller { server: &server, token });
    let send = |caller: &Caller<'_>, code: &str| {
        let headers = [("content-type", "application/json"), ("idempotency-key", "same")];
        caller.ask_with("POST /v1/executions?wait=60s", &sh(code).to_string(), &headers)
    };
    let (first, second) = (send(&a, "echo a").expect(200).json(), send(&b, "echo b").expect(200).json());
    assert_eq!((&first["stdout"], &second["stdout"]), (&json!("a\n"), &json!("b\n")));
    assert_eq!(send(&a, "echo a").id(), first["id"].as_str().unwrap());
    assert_eq!(send(&b, "echo a").expect(409).json()["execution"], second["id"]);
}

#[test]
fn each_scope_allows_its_own() {
    let lab = Lab::new();
    let tokens = ["run", "read", "admin"].map(|scope| key(&lab, &["--scope", scope]));
    let server = Server::start(&lab, &[]);
    let [run, read, admin] = tokens.map(|token| Caller { server: &server, token });
    let nobody = Caller { server: &server, token: "lw_aaaaaaaaaa_none".into() };
    // Who may only run sees what came of it in the answer.
    let object = run.run(&sh("echo seen"));
    assert_eq!(object["stdout"], "seen\n");
    let id = object["id"].as_str().unwrap();
    let submit = "POST /v1/executions".to_owned();
    let show = format!("GET /v1/executions/{id}");
    for (line, caller, status) in [
        (&submit, &read, 403),
        (&submit, &admin, 202),
        (&submit, &nobody, 401),
        (&show, &run, 403),
        (&show, &read, 200),
        (&show, &admin, 200),
        (&show, &nobody, 401),
        (&"GET /metrics".into(), &read, 403),
        (&"GET /metrics".into(), &run, 403),
        (&"GET /metrics".into(), &admin, 200),
        (&"GET /v1/capacity".into(), &run, 200),
        (&"GET /v1/events?follow=false".into(), &run, 403),
        (&"GET /v1/events?follow=false".into(), &read, 200),
        (&format!("DELETE /v1/executions/{id}"), &read, 403),
        (&format!("DELETE /v1/executions/{id}"), &run, 204),
        (&"GET /healthz".into(), &nobody, 200),
        (&"GET /openapi.json".into(), &nobody, 200),
        // What there is behind a path is nobody's business without a key.
        (&"GET /nothing".into(), &nobody, 401),
    ] {
        let answer = caller.ask(line, &sh("true").to_string());
        assert_eq!(answer.status, status, "{line}: {}", answer.text());
    }
    let bare = server.get("/v1/executions").expect(401);
    assert_eq!(bare.headers["www-authenticate"], "Bearer");
    wait_for("the last one ends", || {
        let page = admin.ask("GET /v1/executions?status=queued,running", "").json();
        page["items"].as_array().unwrap().is_empty().then_some(())
    });
}

#[test]
fn a_key_counts_from_its_making_to_its_end() {
    let lab = Lab::new();
    let server = Server::start(&lab, &[]);
    let status = |token: &str| {
        Caller { server: &server, token: token.to_owned() }.ask("GET /v1/executions", "").status
    };
    assert_eq!(status("none"), 200);
    // The first key closes a server that was open.
    let token = key(&lab, &["--scope", "read"]);
    wait_for("keys are asked for", || (status("none") == 401).then_some(()));
    assert_eq!(status(&token), 200);
    let id = token.split('_').nth(1).unwrap();
    lab.lastword(["keys", "revoke", id]).expect(0);
    wait_for("the key stops working", || (status(&token) == 401).then_some(()));
    // The last one is gone, and the server stays closed.
    assert_eq!(status("none"), 401);
    let short = key(&lab, &["--scope", "read", "--expires", "3s"]);
    wait_for("a new key works", || (status(&short) == 200).then_some(()));
    wait_for("it expires", || (status(&short) == 401).then_some(()));
}

#[test]
fn keys_that_can_not_be_read_make_it_unready_and_stay_in_force() {
    let lab = Lab::new();
    let token = key(&lab, &["--scope", "admin"]);
    let server = Server::start(&lab, &[]);
    let caller = Caller { server: &server, token };
    let file = lab.data.join("keys.json");
    let good = std::fs::read(&file).unwrap();
    let keys = |answer: &Answer| {
        let parts = answer.json()["parts"].clone();
        parts.as_array().unwrap().iter().find(|part| part["name"] == "keys").cloned().unwrap()
    };
    assert_eq!(keys(&caller.ask("GET /readyz", "").expect(200))["ready"], true);
    std::fs::write(&file, &good[..good.len() / 2]).unwrap();
    wait_for("it is seen", || (server.get("/readyz").status == 503).then_some(()));
    let told = keys(&caller.ask("GET /readyz", "").expect(503));
    assert!(told["problem"].as_str().unwrap().contains("keys.json"), "{told}");
    // Why is not for everybody.
    assert_eq!(keys(&server.get("/readyz"))["problem"], Value::Null);
    let metrics = caller.ask("GET /metrics", "").expect(200).text();
    assert!(metrics.contains("lastword_part_ok{part=\"keys\"} 0"), "{metrics}");
    std::fs::write(&file, &good).unwrap();
    wait_for("it is whole again", || (server.get("/readyz").status == 200).then_some(()));
    caller.ask("GET /v1/executions", "").expect(200);
}
