//! What is printed: one line per figure.

/// A limit of the surroundings, per second.
pub(crate) fn limit(what: &str, per_second: f64) {
    println!("limit    {what:<52} {per_second:>10.0} /s");
}

/// What the relay reaches, per second, and its part of a limit.
pub(crate) fn rate(what: &str, per_second: f64, limit: f64, of: &str) {
    println!("relay    {what:<52} {per_second:>10.0} /s   {:.2} of {of}", per_second / limit);
}

/// A limit that is no rate.
pub(crate) fn bound(what: &str, value: &str) {
    println!("limit    {what:<52} {value:>10}");
}

/// Anything else that is known of the relay.
pub(crate) fn fact(what: &str, value: &str) {
    println!("relay    {what:<52} {value:>10}");
}
