//! Prints the OpenAPI document: `cargo run -p lastword --example openapi > openapi/openapi.json`

fn main() {
    print!("{}", lastword::http::openapi::generate());
}
