//! JSON as Python's `json.dumps` writes it.

use std::fmt::Write;

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Value};

use super::BYTES_PER_FUEL;

/// Nesting of a value, at most.
const MAX_DEPTH: usize = 128;

/// The options of `json.dumps`.
#[derive(Clone, Debug, Default)]
pub(super) struct Layout {
    /// Characters beyond ASCII are escaped.
    pub ascii: bool,
    /// Spaces a level; all in one line without.
    pub indent: Option<usize>,
    /// Keys in alphabetical order.
    pub sort_keys: bool,
    /// Between items, and between a key and its value; Python's own without.
    pub separators: Option<(String, String)>,
}

/// Takes that much fuel from the template, or fails.
pub(super) type Spend<'a> = &'a dyn Fn(u64) -> Result<(), Error>;

/// Writes a value, which fuel pays for as it goes: a value may hold another many times over, so that its text is far
/// longer than the template.
///
/// # Errors
/// A value that JSON cannot express, or one that is nested too deeply; no fuel left.
pub(super) fn write(value: &Value, layout: &Layout, fuel: Spend<'_>) -> Result<String, Error> {
    let mut out = String::new();
    let own = if layout.indent.is_some() { (",", ": ") } else { (", ", ": ") };
    let given = layout.separators.as_ref().map(|(item, key)| (item.as_str(), key.as_str()));
    Writer { layout, separators: given.unwrap_or(own), out: &mut out, fuel }.value(value, 0)?;
    Ok(out)
}

struct Writer<'a> {
    layout: &'a Layout,
    separators: (&'a str, &'a str),
    out: &'a mut String,
    fuel: Spend<'a>,
}

impl Writer<'_> {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        let refuse = |what: &str| Err(Error::new(ErrorKind::BadSerialization, format!("tojson: {what}")));
        if depth > MAX_DEPTH {
            return refuse("the value is nested too deeply");
        }
        self.spend(0)?;
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.number(value),
            ValueKind::String => self.string(value.as_str().unwrap_or_default())?,
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.layout.sort_keys {
                    keys.sort();
                }
                self.items(('{', '}'), keys.into_iter(), depth, |writer, key| {
                    writer.key(&key)?;
                    writer.out.push_str(writer.separators.1);
                    writer.value(&value.get_item(&key)?, depth + 1)
                })?;
            }
            ValueKind::Seq | ValueKind::Iterable => {
                self.items(('[', ']'), value.try_iter()?, depth, |writer, item| writer.value(&item, depth + 1))?;
            }
            ValueKind::Undefined => return refuse("an undefined value"),
            _ => return refuse("a value that is not JSON"),
        }
        Ok(())
    }

    fn items(
        &mut self,
        (open, close): (char, char),
        items: impl Iterator<Item = Value>,
        depth: usize,
        mut each: impl FnMut(&mut Self, Value) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.out.push(open);
        let mut empty = true;
        for item in items {
            if !empty {
                self.out.push_str(self.separators.0);
            }
            empty = false;
            self.line(depth + 1)?;
            each(self, item)?;
        }
        if !empty {
            self.line(depth)?;
        }
        self.out.push(close);
        Ok(())
    }

    /// Pays for a value and for `bytes` of text.
    fn spend(&self, bytes: usize) -> Result<(), Error> {
        (self.fuel)(1 + (bytes / BYTES_PER_FUEL) as u64)
    }

    fn line(&mut self, depth: usize) -> Result<(), Error> {
        if let Some(indent) = self.layout.indent {
            let spaces = indent.min(64) * depth;
            self.spend(spaces)?;
            self.out.push('\n');
            self.out.extend(std::iter::repeat_n(' ', spaces));
        }
        Ok(())
    }

    /// A key: a text, or what Python makes one of.
    fn key(&mut self, key: &Value) -> Result<(), Error> {
        match key.kind() {
            ValueKind::String => self.string(key.as_str().unwrap_or_default()),
            ValueKind::None | ValueKind::Bool | ValueKind::Number => {
                self.out.push('"');
                self.value(key, 0)?;
                self.out.push('"');
                Ok(())
            }
            kind => {
                let problem = format!("tojson: a key is a {kind}; it must be a text, a number, a truth value or none");
                Err(Error::new(ErrorKind::BadSerialization, problem))
            }
        }
    }

    fn number(&mut self, value: &Value) {
        if value.is_integer() {
            self.out.push_str(&value.to_string());
        } else {
            self.out.push_str(&float(f64::try_from(value.clone()).unwrap_or(f64::NAN)));
        }
    }

    fn string(&mut self, text: &str) -> Result<(), Error> {
        self.spend(text.len())?;
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                c if c < ' ' || self.layout.ascii && !(' '..='~').contains(&c) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        // Writing to a String cannot fail.
                        let _ = write!(self.out, "\\u{unit:04x}");
                    }
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
        Ok(())
    }
}

/// A number as Python's `repr` writes it.
fn float(x: f64) -> String {
    if !x.is_finite() {
        return if x.is_nan() {
            "NaN".into()
        } else if x > 0.0 {
            "Infinity".into()
        } else {
            "-Infinity".into()
        };
    }
    // The shortest digits that read back to the same number.
    let scientific = format!("{x:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    match exponent.parse::<i32>() {
        Ok(exponent) if x != 0.0 && !(-4..16).contains(&exponent) => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.abs())
        }
        _ => format!("{x:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_written_as_python_writes_them() {
        for (x, text) in [
            (1.0, "1.0"),
            (-0.0, "-0.0"),
            (0.1, "0.1"),
            (1e20, "1e+20"),
            (1.5e-7, "1.5e-07"),
            (1e16, "1e+16"),
            (123456789012345680.0, "1.2345678901234568e+17"),
            (1e15, "1000000000000000.0"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (f64::INFINITY, "Infinity"),
        ] {
            assert_eq!(float(x), text);
        }
    }
}
