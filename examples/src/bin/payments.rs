//! Payments through a network that loses answers, by one command. See `payments --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    examples::payments::main()
}
