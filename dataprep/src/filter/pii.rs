//! Masking of e-mail addresses and IPv4 addresses, as datatrove's `formatters/pii.py` does it.

use super::config::PiiConfig;
use crate::error::{Error, Result};
use regex_automata::Input;
use regex_automata::meta::Regex;
use std::net::Ipv4Addr;
use std::ops::Range;

/// The pattern of datatrove: the `addr-spec` of RFC 5322 without quoted local parts.
const EMAIL: &str = concat!(
    r"\b[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*",
    r"@(?:(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?\.)+[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?",
    r"|\[(?:(?:25[0-5]|2[0-4][0-9]|[01]?[0-9][0-9]?)\.){3}",
    r"(?:25[0-5]|2[0-4][0-9]|[01]?[0-9][0-9]?|[A-Za-z0-9-]*[A-Za-z0-9]:)\])",
);
/// Four decimal numbers up to 255, whatever stands around them.
const IPV4: &str = r"(?:(?:25[0-5]|2[0-4][0-9]|[01]?[0-9][0-9]?)\.){3}(?:25[0-5]|2[0-4][0-9]|[01]?[0-9][0-9]?)";

/// The masks, ready to be applied.
pub(crate) struct Pii {
    config: PiiConfig,
    email: Regex,
    ipv4: Regex,
}

impl Pii {
    pub fn new(config: &PiiConfig) -> Result<Self> {
        let given = [
            ("filter.pii.email_replacements", config.emails, &config.email_replacements),
            ("filter.pii.ip_replacements", config.ips, &config.ip_replacements),
        ];
        for (field, on, replacements) in given {
            if config.enabled && on && replacements.is_empty() {
                return Err(Error::Config {
                    field,
                    what: "names nothing to put in place: give at least one text".into(),
                });
            }
        }
        let compile = |pattern| {
            Regex::new(pattern)
                .map_err(|e| Error::Config { field: "filter.pii", what: format!("a pattern cannot be compiled: {e}") })
        };
        Ok(Self { config: config.clone(), email: compile(EMAIL)?, ipv4: compile(IPV4)? })
    }

    /// Masks `text`, with `spare` as scratch. Returns how many e-mail and IP addresses were masked.
    pub fn apply(&self, text: &mut String, spare: &mut String) -> (usize, usize) {
        let (mut emails, mut ips) = (0, 0);
        if self.config.emails && memchr::memchr(b'@', text.as_bytes()).is_some() {
            let replacements = &self.config.email_replacements;
            let mut chunk = 0..0;
            emails = mask(text, spare, |text, from| next_email(&self.email, text, from, &mut chunk), replacements);
        }
        if self.config.ips && may_hold_ipv4(text.as_bytes()) {
            let wanted =
                |found: &str| found.parse::<Ipv4Addr>().is_ok_and(|ip| !self.config.public_ips_only || is_public(ip));
            let next = |text: &str, from: usize| {
                let input = Input::new(text).range(from..);
                let found = self.ipv4.search(&input)?;
                Some((found.start(), found.end(), text.get(found.range()).is_some_and(wanted)))
            };
            ips = mask(text, spare, next, &self.config.ip_replacements);
        }
        (emails, ips)
    }
}

/// The first address from byte `from`: where it begins, where it ends, and that it is to be masked.
///
/// No address contains white space, and the word boundary before it is the same after white space as at the start of a
/// text; so only the stretches between white space that contain an `@` are searched. `chunk` is the one at hand.
fn next_email(pattern: &Regex, text: &str, from: usize, chunk: &mut Range<usize>) -> Option<(usize, usize, bool)> {
    let bytes = text.as_bytes();
    let mut from = from;
    loop {
        if from >= chunk.end {
            let at = from + memchr::memchr(b'@', bytes.get(from..)?)?;
            let start =
                bytes[from..at].iter().rposition(u8::is_ascii_whitespace).map_or(from, |space| from + space + 1);
            let end = bytes[at..].iter().position(u8::is_ascii_whitespace).map_or(bytes.len(), |space| at + space);
            *chunk = start..end;
        }
        // The search begins at `from`, yet sees what stands before.
        let input = Input::new(text.get(chunk.clone())?).range(from.saturating_sub(chunk.start)..);
        if let Some(found) = pattern.search(&input) {
            return Some((chunk.start + found.start(), chunk.start + found.end(), true));
        }
        from = chunk.end;
    }
}

/// Replaces what `next` finds, by the replacements in turn; returns how many.
fn mask(
    text: &mut String,
    spare: &mut String,
    mut next: impl FnMut(&str, usize) -> Option<(usize, usize, bool)>,
    replacements: &[String],
) -> usize {
    let (mut masked, mut copied, mut from) = (0, 0, 0);
    spare.clear();
    let mut turn = replacements.iter().cycle();
    while let Some((start, end, wanted)) = next(text, from) {
        from = end;
        if wanted && let Some(replacement) = turn.next() {
            spare.push_str(text.get(copied..start).unwrap_or_default());
            spare.push_str(replacement);
            copied = end;
            masked += 1;
        }
    }
    if masked > 0 {
        spare.push_str(text.get(copied..).unwrap_or_default());
        std::mem::swap(text, spare);
    }
    masked
}

/// Whether there may be an address: a full stop between digits, and two more within the next twelve bytes.
fn may_hold_ipv4(bytes: &[u8]) -> bool {
    memchr::memchr_iter(b'.', bytes).any(|at| {
        let digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
        at > 0 && digit(at - 1) && digit(at + 1) && {
            let rest = &bytes[at + 1..bytes.len().min(at + 13)];
            rest.iter().filter(|&&byte| byte == b'.').count() >= 2
        }
    })
}

/// Whether an address is globally reachable, by IANA's registry of special-purpose addresses: `ipaddress.is_global` of
/// Python 3.13.
fn is_public(ip: Ipv4Addr) -> bool {
    // Network and prefix length.
    const SPECIAL: [(u32, u32); 14] = [
        (0x0000_0000, 8),
        (0x0a00_0000, 8),
        (0x6440_0000, 10),
        (0x7f00_0000, 8),
        (0xa9fe_0000, 16),
        (0xac10_0000, 12),
        (0xc000_0000, 24),
        (0xc000_0200, 24),
        (0xc0a8_0000, 16),
        (0xc612_0000, 15),
        (0xc633_6400, 24),
        (0xcb00_7100, 24),
        (0xf000_0000, 4),
        (0xffff_ffff, 32),
    ];
    // Within 192.0.0.0/24.
    const EXCEPTIONS: [u32; 2] = [0xc000_0009, 0xc000_000a];
    let bits = ip.to_bits();
    EXCEPTIONS.contains(&bits) || !SPECIAL.iter().any(|&(network, length)| (bits ^ network) >> (32 - length) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(text: &str) -> String {
        let pii = Pii::new(&PiiConfig::default()).unwrap();
        let (mut text, mut spare) = (text.to_owned(), String::new());
        pii.apply(&mut text, &mut spare);
        text
    }

    /// Results of datatrove 0.10.1's `PIIFormatter().format(...)`.
    #[test]
    fn masks_as_datatrove_does() {
        let cases = include_str!("testdata/pii.jsonl");
        for case in cases.lines() {
            let [text, expected]: [String; 2] = serde_json::from_str(case).unwrap();
            assert_eq!(masked(&text), expected, "{text:?}");
        }
    }

    #[test]
    fn replacements_begin_anew_in_each_document() {
        let pii = Pii::new(&PiiConfig::default()).unwrap();
        let mut spare = String::new();
        for _ in 0..2 {
            let mut text = "a@b.org, c@d.org and 8.8.8.8".to_owned();
            assert_eq!(pii.apply(&mut text, &mut spare), (2, 1));
            assert_eq!(text, "email@example.com, firstname.lastname@example.org and 22.214.171.124");
        }
    }

    #[test]
    fn replacements_are_needed() {
        let config = PiiConfig { email_replacements: Vec::new(), ..PiiConfig::default() };
        assert!(matches!(Pii::new(&config), Err(Error::Config { field: "filter.pii.email_replacements", .. })));
    }
}
