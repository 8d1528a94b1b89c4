//! The schemas: from the types, with the bounds that hold for what is sent to us.

use lastword_api as api;
use lastword_api::batch::{BATCH_MAX, IDEMPOTENCY_KEY_BYTES_MAX};
use lastword_api::label::{LABEL_KEY_BYTES_MAX, LABEL_VALUE_BYTES_MAX, LABELS_MAX};
use lastword_api::limits as bounds;
use lastword_api::path::PATH_BYTES_MAX;
use lastword_api::request as new;
use serde_json::{Value, json};
use utoipa::OpenApi;

/// What answers and requests are made of; what these are made of comes along.
#[derive(OpenApi)]
#[openapi(components(schemas(
    api::Backends,
    api::Batch,
    api::BatchReply,
    api::Capacity,
    api::Event,
    api::Execution,
    api::ExecutionPage,
    api::Health,
    api::LogRecord,
    api::NewExecution,
    api::ProblemDetails,
    api::Readiness,
    api::Runtimes,
    api::StdinState,
    api::Verification,
)))]
struct Types;

/// What clients send: whatever has a default may be left out.
const SENT: [&str; 5] = ["Base64", "InputFile", "NewExecution", "NewLimits", "Stdin"];
/// Fields of answers that are left out where they say nothing.
const LEFT_OUT: [(&str, &[&str]); 4] = [
    ("Compile", &["stdout_encoding", "stderr_encoding"]),
    ("OutputFile", &["path_encoding"]),
    ("RefusedOutput", &["path_encoding"]),
    ("ProblemDetails", &["field", "execution", "have", "retry_after"]),
];

/// No NUL byte: nothing on Linux can take one.
const WITHOUT_NUL: &str = r"^[^\u0000]*$";
const VARIABLE: &str = r"^[^=\u0000]+$";
const LABEL_KEY: &str = r"^(?!lastword\.)[^=\u0000-\u001f\u007f-\u009f]+$";
const WITHOUT_CONTROL: &str = r"^[^\u0000-\u001f\u007f-\u009f]*$";

pub(super) fn schemas() -> Value {
    let document = serde_json::to_value(Types::openapi()).unwrap_or_default();
    let mut schemas = document.pointer("/components/schemas").cloned().unwrap_or_default();
    with_streams(&mut schemas);
    require_all(&mut schemas);
    bound_request(&mut schemas);
    bound_limits(&mut schemas);
    add_batch(&mut schemas);
    add_request_back(&mut schemas);
    schemas
}

/// Puts more into the schema at a place.
fn add(schemas: &mut Value, place: &str, more: Value) {
    let into = schemas.pointer_mut(place).and_then(Value::as_object_mut);
    // A place that is gone is a mistake of ours, which the tests of the document find.
    let (Some(into), Value::Object(more)) = (into, more) else { panic!("no schema at {place}") };
    into.extend(more);
}

/// One object, as it is on the wire: utoipa keeps what is flattened apart.
fn with_streams(schemas: &mut Value) {
    let take = |of: &Value, place: &str| of.pointer(place).cloned().unwrap_or_default();
    let streams = take(schemas, "/Inline/properties");
    let whole = schemas.get("Execution").cloned().unwrap_or_default();
    let mut properties = take(&whole, "/allOf/1/properties");
    if let (Some(properties), Value::Object(streams)) = (properties.as_object_mut(), streams) {
        properties.extend(streams);
    }
    let flat = json!({
        "type": "object",
        "description": "One request to run code, and all that came of it. The streams, from `stdout` to `inline_truncated`, are left out of lists unless asked for.",
        "properties": properties,
    });
    if let Some(all) = schemas.as_object_mut() {
        all.insert("Execution".into(), flat);
    }
}

/// Answers have all of their fields, null where there is nothing to say.
fn require_all(schemas: &mut Value) {
    let streams: Vec<String> = schemas
        .pointer("/Inline/properties")
        .and_then(Value::as_object)
        .map(|streams| streams.keys().cloned().collect())
        .unwrap_or_default();
    let Some(all) = schemas.as_object_mut() else { return };
    all.remove("Inline");
    for (name, schema) in all.iter_mut().filter(|(name, _)| !SENT.contains(&name.as_str())) {
        let optional = LEFT_OUT.iter().find(|(of, _)| of == name).map_or(&[][..], |(_, fields)| fields);
        let is_stream = |field: &String| name == "Execution" && streams.contains(field);
        let Some(properties) = schema.get("properties").and_then(Value::as_object) else { continue };
        let required: Vec<&String> = properties
            .keys()
            .filter(|field| !optional.contains(&field.as_str()) && !is_stream(field))
            .collect();
        let required = json!(required);
        if let Some(schema) = schema.as_object_mut() {
            schema.insert("required".into(), required);
        }
    }
}

fn bound_request(schemas: &mut Value) {
    let arg = json!({"type": "string", "maxLength": new::ARG_BYTES_MAX, "pattern": WITHOUT_NUL});
    let path = json!({"minLength": 1, "maxLength": PATH_BYTES_MAX});
    let variables = json!({
        "maxProperties": new::ENV_MAX,
        "propertyNames": {"type": "string", "pattern": VARIABLE},
        "additionalProperties": {"type": "string", "maxLength": new::ARG_BYTES_MAX, "pattern": WITHOUT_NUL},
    });
    let mut of = |field: &str, more: Value| add(schemas, &format!("/NewExecution/properties/{field}"), more);
    of(
        "runtime",
        json!({"maxLength": new::RUNTIME_BYTES_MAX, "description": "The name of a runtime; see `GET /v1/runtimes`."}),
    );
    of("command", json!({"minItems": 1, "maxItems": new::ARGS_MAX, "items": arg}));
    of(
        "args",
        json!({"maxItems": new::ARGS_MAX, "items": arg, "description": "For the program; a command has its words itself."}),
    );
    of("code", json!({"description": "The program, instead of files."}));
    of("files", json!({"maxItems": new::FILES_MAX, "description": "Put into the sandbox before the start."}));
    of("entry", path.clone());
    of("cwd", path.clone());
    of("cwd", json!({"description": "In the sandbox; relative to /work."}));
    of(
        "image",
        json!({
            "maxLength": new::IMAGE_BYTES_MAX,
            "pattern": WITHOUT_NUL,
            "description": "A registry's image, as `docker pull` names it. Paths of the host are refused.",
        }),
    );
    of("env", variables.clone());
    of("env", json!({"description": "Variables of the program. Their values are never returned."}));
    of("secrets", variables);
    of(
        "outputs",
        json!({"maxItems": new::OUTPUTS_MAX, "items": {"type": "string", "minLength": 1, "maxLength": PATH_BYTES_MAX}}),
    );
    of(
        "labels",
        json!({
            "maxProperties": LABELS_MAX,
            "propertyNames": {"type": "string", "maxLength": LABEL_KEY_BYTES_MAX, "pattern": LABEL_KEY},
            "additionalProperties": {"type": "string", "maxLength": LABEL_VALUE_BYTES_MAX, "pattern": WITHOUT_CONTROL},
        }),
    );
    of("priority", json!({"minimum": new::PRIORITY_MIN, "maximum": new::PRIORITY_MAX}));
    of("compile_flags", json!({"maxItems": new::COMPILE_FLAGS_MAX, "items": arg}));
    add(schemas, "/InputFile/properties/path", path);
    add(schemas, "/InputFile/properties/mode", json!({"minimum": 0, "maximum": 0o777}));
    let base64 = json!({"contentEncoding": "base64"});
    add(schemas, "/InputFile/properties/base64", base64.clone());
    add(schemas, "/Base64/properties/base64", base64);
    add(schemas, "/InputFile", json!({"oneOf": [only("text", "base64"), only("base64", "text")]}));
    add(schemas, "/NewExecution", programs());
}

/// What can be run, and what each kind needs and has no use for.
fn programs() -> Value {
    let unset = json!({"type": "null"});
    let code = json!({"required": ["code"], "properties": {"code": {"type": "string"}, "entry": unset}});
    let files = json!({"required": ["files"], "properties": {"files": {"minItems": 1}, "code": unset}});
    let kind = |field: &str, others: Value| {
        let mut kind = json!({"required": [field], "properties": others});
        let not_null = json!({"not": unset});
        add(&mut kind, "/properties", json!({field: not_null}));
        kind
    };
    let mut runtime = kind("runtime", json!({"command": unset}));
    add(&mut runtime, "", json!({"anyOf": [code, files]}));
    let command = json!({"runtime": unset, "args": {"maxItems": 0}, "code": unset, "entry": unset});
    let image = json!({"runtime": unset, "command": unset, "code": unset, "entry": unset});
    json!({
        "description": "A request to run code: with a `runtime` and `code` or `files`, or with a `command`, or with nothing but an `image`.",
        "anyOf": [runtime, kind("command", command), kind("image", image)],
    })
}

/// One field is set, and the other isn't.
fn only(set: &str, unset: &str) -> Value {
    json!({"required": [set], "properties": {set: {"type": "string"}, unset: {"type": "null"}}})
}

fn bound_limits(schemas: &mut Value) {
    let all: [(&str, u64, u64, Option<u64>); 8] = [
        ("wall_ms", bounds::WALL_MS_MIN, bounds::WALL_MS_MAX, Some(bounds::WALL_MS_DEFAULT)),
        ("cpu_ms", bounds::CPU_MS_MIN, bounds::CPU_MS_MAX, None),
        (
            "memory_bytes",
            bounds::MEMORY_BYTES_MIN,
            bounds::MEMORY_BYTES_MAX,
            Some(bounds::MEMORY_BYTES_DEFAULT),
        ),
        ("pids", bounds::PIDS_MIN, bounds::PIDS_MAX, Some(bounds::PIDS_DEFAULT)),
        ("disk_bytes", bounds::DISK_BYTES_MIN, bounds::DISK_BYTES_MAX, Some(bounds::DISK_BYTES_DEFAULT)),
        (
            "output_bytes",
            bounds::OUTPUT_BYTES_MIN,
            bounds::OUTPUT_BYTES_MAX,
            Some(bounds::OUTPUT_BYTES_DEFAULT),
        ),
        ("stack_bytes", bounds::STACK_BYTES_MIN, bounds::STACK_BYTES_MAX, Some(bounds::STACK_BYTES_DEFAULT)),
        ("open_files", bounds::OPEN_FILES_MIN, bounds::OPEN_FILES_MAX, Some(bounds::OPEN_FILES_DEFAULT)),
    ];
    for (name, min, max, default) in all {
        let default = default.map_or("no limit".to_owned(), |default| default.to_string());
        let more = json!({"minimum": min, "maximum": max, "description": format!("Null: {default}.")});
        add(schemas, &format!("/NewLimits/properties/{name}"), more);
    }
    let cpus =
        json!({"minimum": bounds::CPUS_MIN, "maximum": bounds::CPUS_MAX, "description": "Null: no limit."});
    add(schemas, "/NewLimits/properties/cpus", cpus);
}

/// Their deserialisation is written by hand.
fn add_batch(schemas: &mut Value) {
    let mut item = schemas.get("NewExecution").cloned().unwrap_or_default();
    let key = json!({
        "type": ["string", "null"],
        "minLength": 1,
        "maxLength": IDEMPOTENCY_KEY_BYTES_MAX,
        "pattern": "^[!-~]+$",
        "description": "As the header `Idempotency-Key` of a request by itself.",
    });
    add(&mut item, "/properties", json!({"idempotency_key": key}));
    add(&mut item, "", json!({"description": "One request of a batch."}));
    let batch = json!({
        "type": "object",
        "description": "Many requests in one.",
        "additionalProperties": false,
        "required": ["executions"],
        "properties": {
            "executions": {
                "type": "array",
                "minItems": 1,
                "maxItems": BATCH_MAX,
                "items": {"$ref": "#/components/schemas/BatchItem"},
                "description": "One that is wrong is answered by a problem in its place; the others are taken.",
            },
        },
    });
    add(schemas, "", json!({"BatchItem": item, "NewBatch": batch}));
}

fn add_request_back(schemas: &mut Value) {
    let mut back = schemas.get("NewExecution").cloned().unwrap_or_default();
    let names = json!({"type": "object", "additionalProperties": {"type": "null"}, "description": "The names; values are not returned."});
    add(&mut back, "/properties", json!({"env": names, "secrets": names}));
    add(&mut back, "", json!({"description": "A request as it is shown: without the values of variables."}));
    if let Some(back) = back.as_object_mut() {
        back.remove("additionalProperties");
    }
    add(schemas, "", json!({"RequestBack": back}));
}
