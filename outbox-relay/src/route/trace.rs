//! The trace context as Debezium stores it: Java properties text.

use std::borrow::Cow;

/// The `traceparent` and `tracestate` in the text. What else it holds is not ours to publish.
pub(super) fn properties(text: &str) -> impl Iterator<Item = (&str, Cow<'_, str>)> {
    text.lines().filter_map(|line| {
        let line = line.trim_start();
        let (name, value) = line.split_once(['=', ':'])?;
        let name = name.trim_end();
        matches!(name, "traceparent" | "tracestate").then(|| (name, unescape(value.trim_start())))
    })
}

/// The context in which the event was written.
pub(crate) fn traceparent(text: &str) -> Option<Cow<'_, str>> {
    properties(text).find(|(name, _)| *name == "traceparent").map(|(_, value)| value)
}

/// Java escapes `=`, `:`, `#`, `!` and blanks with a backslash when it writes properties.
fn unescape(value: &str) -> Cow<'_, str> {
    if !value.contains('\\') {
        return value.into();
    }
    let mut plain = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        plain.extend(if c == '\\' { chars.next() } else { Some(c) });
    }
    plain.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_java_writes_and_what_we_write() {
        let java = "#Mon Nov 23 10:00:00 UTC 2026\ntraceparent=00-0af7-b7ad-01\ntracestate=vendor\\=x\nbaggage=secret\n";
        let found: Vec<_> = properties(java).map(|(name, value)| (name, value.into_owned())).collect();
        assert_eq!(
            found,
            [("traceparent", "00-0af7-b7ad-01".to_owned()), ("tracestate", "vendor=x".to_owned())]
        );
        assert_eq!(
            properties("traceparent : 00\\:1").map(|(_, v)| v.into_owned()).collect::<Vec<_>>(),
            ["00:1"]
        );
        assert_eq!(properties("").count(), 0);
    }
}
