//! Renews the table of docs/configuration.md.

use std::process::ExitCode;

fn main() -> ExitCode {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");
    let document = std::fs::read_to_string(path);
    let renewed = document.ok().and_then(|document| lastword::cli::serve::renewed(&document));
    match renewed.map(|renewed| std::fs::write(path, renewed)) {
        Some(Ok(())) => ExitCode::SUCCESS,
        _ => {
            eprintln!("{path} can't be read or written, or has no place for the table");
            ExitCode::FAILURE
        }
    }
}
