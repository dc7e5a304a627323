//! The order shop: real orders through the whole toolkit, by one command. See `order-shop --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    examples::order_shop::main()
}
