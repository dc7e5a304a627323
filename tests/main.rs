//! The tests that cross crates, as one program.
//!
//! | module | what it proves |
//! |---|---|
//! | `apparatus` | the servers and faults of the tests are what they say they are |

mod apparatus;
