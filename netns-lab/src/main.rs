//! The lab's command, `netns-lab`.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::run() {
        Ok(code) => code,
        Err(e) => {
            eprintln!("netns-lab: {e:#}");
            ExitCode::FAILURE
        }
    }
}
