//! Checks of a schema before the `llguidance` crate reads it: what would cost too much, or would be read wrongly, is
//! refused.

use serde_json::{Number, Value};

/// Values of a schema, at most: the reader's stack holds as many levels.
pub(super) const MAX_VALUES: usize = 10_000;
/// The least common multiple of all `multipleOf`, without decimal places, at most: a state of the lexer each.
const MAX_MULTIPLE: u64 = 10_000;
/// Bytes of a regular expression, and of all patterns of a schema, at most: the time to read one grows faster than its
/// length.
pub(super) const MAX_EXPRESSION: usize = 8 << 10;
/// Integers are read through `f64`.
const MAX_INTEGER: f64 = 9_007_199_254_740_992.0;
/// Formats that are enforced. By the standard the others are notes for a reader, and so they are passed over here.
const FORMATS: [&str; 10] =
    ["date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "uri", "uuid"];

/// Checks a schema, and takes out formats that are not enforced.
///
/// # Errors
/// Says what is too much.
pub(super) fn prepare(schema: &mut Value) -> Result<(), String> {
    let n = values(schema);
    if n > MAX_VALUES {
        return Err(format!("it has {n} values, and at most {MAX_VALUES} are read"));
    }
    walk(schema, &mut Sums { multiple: 1, patterns: 0 })
}

/// Values in a JSON value, itself included.
fn values(value: &Value) -> usize {
    match value {
        Value::Array(values) => 1 + values.iter().map(self::values).sum::<usize>(),
        Value::Object(entries) => 1 + entries.values().map(self::values).sum::<usize>(),
        _ => 1,
    }
}

/// Goes through a schema and the schemas in it; a parsed schema is at most 128 deep.
fn walk(schema: &mut Value, sums: &mut Sums) -> Result<(), String> {
    let entries = match schema {
        Value::Array(schemas) => return schemas.iter_mut().try_for_each(|schema| walk(schema, sums)),
        Value::Object(entries) => entries,
        _ => return Ok(()),
    };
    if entries.get("format").and_then(Value::as_str).is_some_and(|format| !FORMATS.contains(&format)) {
        entries.shift_remove("format");
    }
    if entries.get("uniqueItems") == Some(&Value::Bool(false)) {
        entries.shift_remove("uniqueItems");
    }
    for (key, value) in entries {
        match (key.as_str(), value) {
            ("multipleOf", Value::Number(number)) => sums.add_multiple(number)?,
            ("pattern", Value::String(pattern)) => sums.add_pattern(pattern)?,
            ("const" | "enum" | "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum", value) => {
                literal(key, value)?;
            }
            // Notes, not schemas.
            ("default" | "examples" | "example", _) => {}
            // The keys in these are names, and may be any of the words above.
            (
                "properties" | "patternProperties" | "$defs" | "definitions" | "dependentSchemas",
                Value::Object(named),
            ) => {
                if key == "patternProperties" {
                    named.keys().try_for_each(|pattern| sums.add_pattern(pattern))?;
                }
                named.values_mut().try_for_each(|schema| walk(schema, sums))?;
            }
            (_, value) => walk(value, sums)?,
        }
    }
    Ok(())
}

/// What is bounded over all parts of a schema.
struct Sums {
    /// The least common multiple of all `multipleOf`.
    multiple: u64,
    /// Bytes of all patterns.
    patterns: usize,
}

impl Sums {
    fn add_multiple(&mut self, number: &Number) -> Result<(), String> {
        let digits = digits(number).filter(|&digits| digits > 0);
        self.multiple = digits.and_then(|digits| least_common_multiple(self.multiple, digits)).unwrap_or(u64::MAX);
        if self.multiple > MAX_MULTIPLE {
            return Err(format!(
                "multipleOf {number}: a common multiple of all of them must be at most {MAX_MULTIPLE}"
            ));
        }
        Ok(())
    }

    fn add_pattern(&mut self, pattern: &str) -> Result<(), String> {
        self.patterns = self.patterns.saturating_add(pattern.len());
        if self.patterns > MAX_EXPRESSION {
            return Err(format!("its patterns have more than {MAX_EXPRESSION} bytes together"));
        }
        Ok(())
    }
}

/// Refuses integers that the crate would change to others.
fn literal(key: &str, value: &Value) -> Result<(), String> {
    match value {
        Value::Number(number) if number.as_f64().is_none_or(|x| x.fract() == 0.0 && x.abs() >= MAX_INTEGER) => {
            Err(format!("{number} in {key}: numbers there must be below 2^53; a string has no such limit"))
        }
        Value::Array(values) => values.iter().try_for_each(|value| literal(key, value)),
        Value::Object(entries) => entries.values().try_for_each(|value| literal(key, value)),
        _ => Ok(()),
    }
}

/// The digits of a decimal number without its point and the zeros at its ends: 37 of 0.370. `None` where there are
/// more than an integer holds.
fn digits(number: &Number) -> Option<u64> {
    let text = number.to_string();
    let mantissa = text.split(['e', 'E']).next().unwrap_or_default();
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    digits.trim_matches('0').parse().ok()
}

fn least_common_multiple(a: u64, b: u64) -> Option<u64> {
    let (mut x, mut y) = (a, b);
    while y > 0 {
        (x, y) = (y, x % y);
    }
    (a / x.max(1)).checked_mul(b)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_costs_too_much_or_would_be_changed_is_refused() {
        for (mut schema, words) in [
            (json!({"enum": (0..MAX_VALUES).collect::<Vec<_>>()}), "10002 values"),
            (json!({"properties": {"a": {"multipleOf": 20_001}}}), "multipleOf 20001"),
            (json!({"allOf": [{"multipleOf": 0.0251}, {"multipleOf": 97}]}), "multipleOf 97"),
            (json!({"anyOf": [{"const": {"id": [9_007_199_254_740_993_u64]}}]}), "in const"),
            (json!({"multipleOf": 0}), "multipleOf 0"),
            (json!({"properties": {"default": {"multipleOf": 20_001}}}), "multipleOf 20001"),
            (json!({"$defs": {"const": {"const": 9_007_199_254_740_993_u64}}}), "in const"),
            (json!({"minimum": 9_007_199_254_740_993_u64}), "in minimum"),
            (
                json!({"anyOf": [{"pattern": "a".repeat(5000)}, {"patternProperties": {"b".repeat(5000): {}}}]}),
                "8192 bytes",
            ),
        ] {
            let error = prepare(&mut schema).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
        let fine =
            json!({"const": -9_007_199_254_740_991_i64, "multipleOf": 0.01, "enum": [1e300, 2.5, "9007199254740993"]});
        assert!(prepare(&mut fine.clone()).unwrap_err().contains("in enum"));
        let mut fine =
            json!({"items": [{"multipleOf": 25}, {"multipleOf": 100.0}, {"multipleOf": 0.5}], "enum": [2.5]});
        assert_eq!(prepare(&mut fine), Ok(()));
    }

    #[test]
    fn formats_that_are_notes_are_taken_out_of_schemas_and_of_nothing_else() {
        let mut schema = json!({
            "properties": {
                "format": {"type": "string", "format": "int32"}, "b": {"format": "uuid"},
                "default": {"format": "int32", "uniqueItems": false}, "enum": {"uniqueItems": true},
            },
            "const": {"format": "x"}, "default": {"format": "y"},
        });
        prepare(&mut schema).unwrap();
        assert_eq!(
            schema,
            json!({
                "properties": {
                    "format": {"type": "string"}, "b": {"format": "uuid"}, "default": {}, "enum": {"uniqueItems": true},
                },
                "const": {"format": "x"}, "default": {"format": "y"},
            })
        );
    }
}
