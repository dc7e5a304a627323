//! Programs a reader copies from. Each runs by one command, and its modules say what is where.

pub mod order_shop;
pub mod payments;
