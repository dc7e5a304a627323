//! The tests that cross crates, as one program.
//!
//! | module | what it proves |
//! |---|---|
//! | `apparatus` | the servers and faults of the tests are what they say they are |
//! | `conformance` | every store keeps what its trait promises, on the real servers |
//! | `deployed` | what `deploy/README.md` tells to type does what it says |
//! | `idempotency` | claims hold while their store is killed, frozen, badly set up or not heard |
//! | `operators` | what operators see and ask is the same in Postgres as in any other store |
//! | `outbox` | events are written with the business change or not at all, and applied once, on Postgres |
//! | `participant` | a service that is killed or frozen within a request answers truthfully afterwards |
//! | `relay` | what was committed is published: all of it, nothing else, in order; whoever dies or hangs |
//! | `sagas` | workers of one Postgres: all effects or none, whoever dies or hangs |
//! | `saga_plans` | no statement of a worker reads a whole table of Postgres, whatever the server believes |
//! | `saga_store` | sagas in Postgres keep their promises beside zombies, lost answers and dead servers |
//! | `shop` | the order shop of `examples/`, under every fault, agrees with its ledgers to the penny |
//! | `wire` | what a saga sends is what a participant reads |

mod apparatus;
mod conformance;
mod deployed;
mod idempotency;
mod operators;
mod outbox;
mod participant;
mod relay;
mod saga_plans;
mod saga_store;
mod sagas;
mod shop;
mod wire;
