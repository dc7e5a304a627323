//! JSON in one form (RFC 8785), so that the order of members and the white space do not matter.
//!
//! Written by hand for two reasons: a document with a member given twice has no single meaning and is left as
//! it is; and an integer that a double cannot hold is compared digit by digit, because two amounts that round
//! to the same double are not the same amount.

use std::fmt::Write;

const DEPTH_MAX: usize = 128;

/// The canonical form, or `None` if it is no JSON, or has none.
pub(crate) fn canonical(body: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(body).ok()?;
    let mut parser = Parser { text, at: 0 };
    let mut out = String::with_capacity(body.len());
    parser.value(&mut out, 0)?;
    parser.space();
    (parser.at == text.len()).then(|| out.into_bytes())
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    fn value(&mut self, out: &mut String, depth: usize) -> Option<()> {
        self.space();
        match self.peek()? {
            _ if depth > DEPTH_MAX => None,
            b'{' => self.object(out, depth),
            b'[' => self.array(out, depth),
            b'"' => {
                let text = self.string()?;
                write_string(out, &text);
                Some(())
            }
            b't' => self.word("true", out),
            b'f' => self.word("false", out),
            b'n' => self.word("null", out),
            _ => self.number(out),
        }
    }

    fn object(&mut self, out: &mut String, depth: usize) -> Option<()> {
        self.at += 1;
        let mut members: Vec<(Vec<u16>, String)> = Vec::new();
        self.space();
        if !self.take(b'}') {
            loop {
                self.space();
                if self.peek()? != b'"' {
                    return None;
                }
                let name = self.string()?;
                self.space();
                if !self.take(b':') {
                    return None;
                }
                let mut member = String::new();
                write_string(&mut member, &name);
                member.push(':');
                self.value(&mut member, depth + 1)?;
                members.push((name.encode_utf16().collect(), member));
                self.space();
                if self.take(b'}') {
                    break;
                }
                if !self.take(b',') {
                    return None;
                }
            }
        }
        members.sort_by(|a, b| a.0.cmp(&b.0));
        if members.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            return None;
        }
        out.push('{');
        for (i, (_, member)) in members.iter().enumerate() {
            if i > 0 {
                out.push(',');
            }
            out.push_str(member);
        }
        out.push('}');
        Some(())
    }

    fn array(&mut self, out: &mut String, depth: usize) -> Option<()> {
        self.at += 1;
        out.push('[');
        self.space();
        if !self.take(b']') {
            loop {
                self.value(out, depth + 1)?;
                self.space();
                if self.take(b']') {
                    break;
                }
                if !self.take(b',') {
                    return None;
                }
                out.push(',');
            }
        }
        out.push(']');
        Some(())
    }

    fn string(&mut self) -> Option<String> {
        let start = self.at;
        let bytes = self.text.as_bytes();
        let mut at = start + 1;
        loop {
            match bytes.get(at)? {
                b'"' => break,
                b'\\' => at += 2,
                _ => at += 1,
            }
        }
        self.at = at + 1;
        // Escapes, surrogates and control characters are a matter for a real parser.
        serde_json::from_str(self.text.get(start..self.at)?).ok()
    }

    fn number(&mut self, out: &mut String) -> Option<()> {
        let rest = &self.text.as_bytes()[self.at..];
        let length =
            rest.iter().take_while(|b| matches!(b, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E')).count();
        let text: &'a str = &self.text[self.at..self.at + length];
        // serde checks the grammar (no leading zeros, no bare dot), std reads to the last digit.
        serde_json::from_str::<serde::de::IgnoredAny>(text).ok()?;
        let number: f64 = text.parse().ok().filter(|number: &f64| number.is_finite())?;
        self.at += length;
        let digits = text.trim_start_matches('-');
        let whole = digits.bytes().all(|b| b.is_ascii_digit());
        if whole && digits.len() > 15 {
            out.push_str(text);
        } else {
            write_number(out, number);
        }
        Some(())
    }

    fn word(&mut self, word: &str, out: &mut String) -> Option<()> {
        self.text[self.at..].starts_with(word).then(|| {
            self.at += word.len();
            out.push_str(word);
        })
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let there = self.peek() == Some(byte);
        self.at += usize::from(there);
        there
    }
}

fn write_string(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '\u{c}' => out.push_str("\\f"),
            '\r' => out.push_str("\\r"),
            c if c < ' ' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// As ECMAScript writes a number: the shortest digits that give it back.
fn write_number(out: &mut String, number: f64) {
    if number == 0.0 {
        out.push('0');
        return;
    }
    let text = format!("{number:e}");
    let (mantissa, exponent) = text.split_once('e').expect("LowerExp writes an e");
    let exponent: i32 = exponent.parse().expect("LowerExp writes a number after it");
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or(("", mantissa), |rest| ("-", rest));
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    let (count, point) = (digits.len() as i32, exponent + 1);
    out.push_str(sign);
    if count <= point && point <= 21 {
        out.push_str(&digits);
        out.extend(std::iter::repeat_n('0', (point - count) as usize));
    } else if 0 < point && point <= 21 {
        let (whole, fraction) = digits.split_at(point as usize);
        let _ = write!(out, "{whole}.{fraction}");
    } else if -6 < point && point <= 0 {
        out.push_str("0.");
        out.extend(std::iter::repeat_n('0', (-point) as usize));
        out.push_str(&digits);
    } else {
        let (first, rest) = digits.split_at(1);
        out.push_str(first);
        if !rest.is_empty() {
            let _ = write!(out, ".{rest}");
        }
        let _ = write!(out, "e{}{}", if point > 0 { "+" } else { "-" }, (point - 1).abs());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(text: &str) -> Option<String> {
        canonical(text.as_bytes()).map(|form| String::from_utf8(form).unwrap())
    }

    #[test]
    fn order_and_white_space_do_not_matter() {
        assert_eq!(form(" { \"b\" : [ 1 , true ] , \"a\" : null } ").unwrap(), r#"{"a":null,"b":[1,true]}"#);
        assert_eq!(form(r#"{"a":null,"b":[1,true]}"#), form("{\"b\":[1.0,true],\n\"a\":null}"));
        assert_ne!(form("[1,2]"), form("[2,1]"));
    }

    #[test]
    fn members_sort_by_utf16_as_the_standard_says() {
        // U+1F600 is written with surrogates (D83D), which sort before U+FB33.
        let text = "{\"\u{fb33}\":1,\"\u{1f600}\":2,\"\\u20ac\":3,\"\\r\":4,\"1\":5}";
        assert_eq!(form(text).unwrap(), "{\"\\r\":4,\"1\":5,\"\u{20ac}\":3,\"\u{1f600}\":2,\"\u{fb33}\":1}");
    }

    #[test]
    fn numbers_are_written_as_ecmascript_does() {
        for (text, expected) in [
            ("333333333.33333329", "333333333.3333333"),
            ("1E30", "1e+30"),
            ("4.50", "4.5"),
            ("2e-3", "0.002"),
            ("0.000000000000000000000000001", "1e-27"),
            ("-0", "0"),
            ("1e21", "1e+21"),
            ("123456789012e8", "12345678901200000000"),
            ("-1.5e-7", "-1.5e-7"),
        ] {
            assert_eq!(form(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn amounts_that_a_double_would_merge_stay_apart() {
        assert_ne!(form("9007199254740993"), form("9007199254740992"));
    }

    #[test]
    fn what_has_no_single_meaning_has_no_form() {
        for text in [
            "{\"a\":1,\"a\":2}",
            "{a:1}",
            "[1,]",
            "01",
            "1 2",
            "\"\\x\"",
            "nul",
            "",
            "{\"a\":1",
            "[\"\\ud800\"]",
        ] {
            assert_eq!(form(text), None, "{text}");
        }
        assert_eq!(form(&format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000))), None);
    }
}
