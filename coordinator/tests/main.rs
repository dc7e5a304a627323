//! The `saga` program from outside: commands on a SQLite file that a worker of this process drives, and
//! the server as a process.

mod commands;
mod server;
mod shop;
mod steering;
