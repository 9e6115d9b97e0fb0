//! Python's methods and functions that templates use and minijinja does not have; dates are in UTC.

use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::value::{Kwargs, from_args};
use minijinja::{Error, ErrorKind, State, Value};

use super::BYTES_PER_FUEL;

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// Methods of Python's values: those of strings that minijinja-contrib lacks, and its own.
pub(crate) fn method(state: &mut State, value: &Value, method: &str, arguments: &[Value]) -> Result<Value, Error> {
    if let Some(text) = value.as_str() {
        if matches!(method, "split" | "rsplit" | "splitlines") {
            pay_for_parts(state, text, arguments)?;
        }
        match method {
            "removeprefix" | "removesuffix" => {
                let (part,): (&str,) = from_args(arguments)?;
                let prefix = method == "removeprefix";
                let rest = if prefix { text.strip_prefix(part) } else { text.strip_suffix(part) };
                return Ok(Value::from(rest.unwrap_or(text)));
            }
            "partition" | "rpartition" => {
                let (separator,): (&str,) = from_args(arguments)?;
                let first = method == "partition";
                let parts = if first { text.split_once(separator) } else { text.rsplit_once(separator) };
                let parts = match parts {
                    Some((before, after)) => [before, separator, after],
                    None if first => [text, "", ""],
                    None => ["", "", text],
                };
                return Ok(parts.into_iter().map(Value::from).collect());
            }
            "rsplit" => {
                let (separator, most): (Option<&str>, Option<i64>) = from_args(arguments)?;
                return rsplit(text, separator, most.and_then(|n| usize::try_from(n).ok()));
            }
            _ => {}
        }
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, method, arguments)
}

/// Takes fuel for the parts of a text before they are made: each takes many times the memory of its byte.
fn pay_for_parts(state: &State<'_, '_>, text: &str, arguments: &[Value]) -> Result<(), Error> {
    let parts = match arguments.first().and_then(Value::as_str) {
        Some(separator) if !separator.is_empty() => text.matches(separator).count(),
        _ => text.split(char::is_whitespace).count(),
    };
    state.consume_fuel((parts + text.len() / BYTES_PER_FUEL) as u64)
}

/// `str.rsplit`: at most `most` cuts, from the right; at white space without a separator.
fn rsplit(text: &str, separator: Option<&str>, most: Option<usize>) -> Result<Value, Error> {
    let most = most.unwrap_or(usize::MAX);
    let mut parts: Vec<&str> = Vec::new();
    match separator {
        Some("") => return Err(Error::new(ErrorKind::InvalidOperation, "rsplit: the separator is empty")),
        Some(separator) => parts.extend(text.rsplitn(most.saturating_add(1), separator)),
        None => {
            let mut rest = text.trim_end();
            while parts.len() < most
                && let Some((before, word)) = rest.rsplit_once(char::is_whitespace)
            {
                parts.push(word);
                rest = before.trim_end();
            }
            parts.extend((!rest.is_empty()).then_some(rest));
        }
    }
    Ok(parts.into_iter().rev().map(Value::from).collect())
}

/// The filter `default`, with Jinja's names of its arguments.
pub(super) fn default(
    value: &Value,
    other: Option<Value>,
    boolean: Option<bool>,
    named: Kwargs,
) -> Result<Value, Error> {
    let other = match other {
        Some(other) => Some(other),
        None => named.get("default_value")?,
    };
    let boolean = match boolean {
        Some(boolean) => boolean,
        None => named.get::<Option<bool>>("boolean")?.unwrap_or(false),
    };
    named.assert_all_used()?;
    let missing = value.is_undefined() || boolean && !value.is_true();
    Ok(if missing { other.unwrap_or_else(|| Value::from("")) } else { value.clone() })
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// Year, month from 1, day from 1 and day of the year from 1, for days since 1970 (Hinnant, "chrono-compatible
/// low-level date algorithms").
fn civil(days: u64) -> (u64, usize, u64, u64) {
    let z = days + 719_468;
    let (era, day) = (z / 146_097, z % 146_097);
    let year_of_era = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let m = (5 * day_of_year + 2) / 153;
    let month = if m < 10 { m + 3 } else { m - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let leap = year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    // The computing year starts in March.
    let ordinal = if month > 2 { day_of_year + 60 + u64::from(leap) } else { day_of_year - 305 };
    (year, month as usize, day_of_year - (153 * m + 2) / 5 + 1, ordinal)
}

/// A time in seconds since 1970 by a format of Python's `strftime`.
///
/// # Errors
/// A directive that is not known.
pub(super) fn strftime(format: &str, seconds: u64) -> Result<String, Error> {
    let (days, time) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day, ordinal) = civil(days);
    let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
    let weekday = DAYS[((days + 4) % 7) as usize];
    let name = MONTHS[month - 1];
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut directive = chars.next();
        let padded = directive != Some('-');
        if !padded {
            directive = chars.next();
        }
        let number = |n: u64| if padded { format!("{n:02}") } else { n.to_string() };
        out.push_str(&match directive {
            Some('Y') => year.to_string(),
            Some('y') => number(year % 100),
            Some('m') => number(month as u64),
            Some('d') => number(day),
            Some('e') => format!("{day:2}"),
            Some('j') => format!("{ordinal:03}"),
            Some('H') => number(hour),
            Some('I') => number((hour + 11) % 12 + 1),
            Some('M') => number(minute),
            Some('S') => number(second),
            Some('p') => if hour < 12 { "AM" } else { "PM" }.into(),
            Some('B') => name.into(),
            Some('b' | 'h') => name[..3].into(),
            Some('A') => weekday.into(),
            Some('a') => weekday[..3].into(),
            Some('F') => format!("{year}-{month:02}-{day:02}"),
            Some('T') => format!("{hour:02}:{minute:02}:{second:02}"),
            Some('z') => "+0000".into(),
            Some('Z') => "UTC".into(),
            Some('%') => "%".into(),
            other => {
                let directive = other.map_or_else(String::new, String::from);
                let problem = format!("strftime_now: the directive %{directive} is not known");
                return Err(Error::new(ErrorKind::InvalidOperation, problem));
            }
        });
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_python() {
        // datetime.fromtimestamp(n, UTC).strftime(…), Python 3.12.
        let format = "%d %b %Y|%A %a %B|%H:%M:%S|%I %p|%j|%-d %-m|%y %%";
        for (seconds, text) in [
            (0, "01 Jan 1970|Thursday Thu January|00:00:00|12 AM|001|1 1|70 %"),
            (951_827_696, "29 Feb 2000|Tuesday Tue February|12:34:56|12 PM|060|29 2|00 %"),
            (1_735_689_599, "31 Dec 2024|Tuesday Tue December|23:59:59|11 PM|366|31 12|24 %"),
            (4_107_542_400, "01 Mar 2100|Monday Mon March|00:00:00|12 AM|060|1 3|00 %"),
        ] {
            assert_eq!(strftime(format, seconds).unwrap(), text);
        }
        assert!(strftime("%Q", 0).unwrap_err().to_string().contains("%Q"));
    }
}
