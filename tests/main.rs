//! The tests that cross crates, as one program.
//!
//! | module | what it proves |
//! |---|---|
//! | `apparatus` | the servers and faults of the tests are what they say they are |
//! | `outbox` | events are written with the business change or not at all, and applied once, on Postgres |

mod apparatus;
mod outbox;
