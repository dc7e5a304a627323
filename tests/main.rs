//! The tests that cross crates, as one program.
//!
//! | module | what it proves |
//! |---|---|
//! | `apparatus` | the servers and faults of the tests are what they say they are |
//! | `conformance` | every store keeps what its trait promises, on the real servers |
//! | `idempotency` | claims hold while their store is killed, frozen, badly set up or not heard |
//! | `outbox` | events are written with the business change or not at all, and applied once, on Postgres |
//! | `participant` | a service that is killed or frozen within a request answers truthfully afterwards |
//! | `relay` | what was committed is published: all of it, nothing else, in order; whoever dies or hangs |
//! | `shop` | the order shop of `examples/`, under every fault, agrees with its ledgers to the penny |
//! | `wire` | what a saga sends is what a participant reads |

mod apparatus;
mod conformance;
mod idempotency;
mod outbox;
mod participant;
mod relay;
mod shop;
mod wire;
