//! What a client of Redis must not do in two steps.

/// Owners were compared by the client, which then deleted: whoever came in between lost his claim. Here every
/// write that has a condition is one command, a script or `SET … NX`, and the client has no other.
#[test]
fn every_conditional_write_is_one_command() {
    let store = include_str!("../../src/store/redis.rs");
    let commands: Vec<&str> =
        store.match_indices("redis::cmd(").map(|(at, _)| store[at..].split('"').nth(1).unwrap()).collect();
    assert_eq!(commands, ["SET"], "besides the script");
    assert!(store.contains(r#".arg("NX").arg("GET")"#));
    let script = include_str!("../../src/store/redis/swap.lua");
    for change in ["'DEL'", "'SET'"] {
        let compared = script.find("if not met then").unwrap();
        assert!(script.find(change).unwrap() > compared, "{change} comes after the comparison");
    }
}
