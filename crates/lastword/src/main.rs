use std::process::ExitCode;

fn main() -> ExitCode {
    lastword::cli::main()
}
