//! Ports for servers that will be killed and come back on the same one.

use std::net::{Ipv4Addr, TcpListener};

/// A port of the loopback interface that nobody listens on.
///
/// It lies below the range from which the kernel serves outgoing connections. A port out of that range could
/// be taken by any client while the server is down; worse, a client that keeps dialling a dead port of that
/// range ends up connected *to itself* and keeps the server from coming back.
///
/// Two processes may still be given the same port; whoever binds second fails and asks again.
pub fn free_port() -> u16 {
    let lowest_outgoing = lowest_outgoing_port();
    let range = if lowest_outgoing > 20_000 { 12_000..lowest_outgoing } else { 61_000..65_535 };
    for _ in 0..1_000 {
        let port = rand::random_range(range.clone());
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("no free port in {range:?} on the loopback interface after 1,000 attempts");
}

fn lowest_outgoing_port() -> u16 {
    std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|range| range.split_whitespace().next()?.parse().ok())
        .unwrap_or(32_768)
}
