//! Canonical JSON: one way to write each value, for fingerprints.

use serde_json::Value;

/// `value` without white space and with the keys of every object in order, whatever order it was read in.
pub(crate) fn canonical(value: &Value) -> String {
    let mut text = Vec::new();
    write(value, &mut text).expect("memory can be written");
    String::from_utf8(text).expect("JSON is UTF-8")
}

fn write(value: &Value, text: &mut Vec<u8>) -> serde_json::Result<()> {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by_key(|(key, _)| key.as_str());
            text.push(b'{');
            for (i, (key, value)) in entries.into_iter().enumerate() {
                if i > 0 {
                    text.push(b',');
                }
                serde_json::to_writer(&mut *text, key)?;
                text.push(b':');
                write(value, text)?;
            }
            text.push(b'}');
        }
        Value::Array(items) => {
            text.push(b'[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    text.push(b',');
                }
                write(item, text)?;
            }
            text.push(b']');
        }
        scalar => serde_json::to_writer(text, scalar)?,
    }
    Ok(())
}
