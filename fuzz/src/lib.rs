//! Shared by the fuzz targets: panics of other crates, pieces of inputs, and JSON that is cut from bytes.

use std::panic::{self, AssertUnwindSafe};
use std::sync::{Mutex, PoisonError};

pub use libfuzzer_sys::arbitrary::{Result, Unstructured};
use serde_json::Value;

/// What the latest panic said.
static PANIC: Mutex<String> = Mutex::new(String::new());

/// Takes libFuzzer's hook away, which ends the process on every panic: our code catches those of some crates that it
/// calls and goes on, so that only what comes out of it is a finding. To be called once, before [`run`].
pub fn catch_panics() {
    panic::set_hook(Box::new(|info| *PANIC.lock().unwrap_or_else(PoisonError::into_inner) = info.to_string()));
}

/// Runs a target's body; a panic that nothing catches ends the process, as libFuzzer expects it.
pub fn run(body: impl FnOnce()) {
    if panic::catch_unwind(AssertUnwindSafe(body)).is_err() {
        eprintln!("{}", PANIC.lock().unwrap_or_else(PoisonError::into_inner));
        std::process::abort();
    }
}

/// An item of `items`.
///
/// # Errors
/// Where `items` is empty.
pub fn one<'a, T>(u: &mut Unstructured<'_>, items: &'a [T]) -> Result<&'a T> {
    u.choose(items)
}

/// Cuts `bytes` at the first zero byte: a text that is UTF-8, and the rest.
pub fn text(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let at = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    let (text, rest) = bytes.split_at(at);
    Some((std::str::from_utf8(text).ok()?, rest.get(1..).unwrap_or_default()))
}

/// Numbers at which something overflows, wraps, rounds or is too large.
pub const NUMBERS: [u64; 16] = [
    0,
    1,
    2,
    3,
    7,
    64,
    255,
    4096,
    65_535,
    1 << 20,
    1 << 24,
    1 << 28,
    u32::MAX as u64,
    1 << 53,
    i64::MAX as u64,
    u64::MAX,
];

/// A small number, one of [`NUMBERS`] or its neighbor, or any.
///
/// # Errors
/// None in practice: bytes that are missing count as zeros.
pub fn number(u: &mut Unstructured<'_>) -> Result<u64> {
    Ok(match u.arbitrary::<u8>()? {
        small @ 0..128 => u64::from(small),
        edge @ 128..240 => {
            let number = NUMBERS[usize::from(edge) % NUMBERS.len()];
            match edge / 16 % 3 {
                0 => number,
                1 => number.wrapping_add(1),
                _ => number.wrapping_sub(1),
            }
        }
        _ => u.arbitrary()?,
    })
}

/// Any JSON value, mostly small.
///
/// # Errors
/// As [`number`].
pub fn json(u: &mut Unstructured<'_>, depth: usize) -> Result<Value> {
    Ok(match u.arbitrary::<u8>()? % 10 {
        0 => Value::Null,
        1 => u.arbitrary::<bool>()?.into(),
        2 => number(u)?.into(),
        3 => (-(number(u)? as i64).saturating_abs()).into(),
        4 => u.arbitrary::<f64>()?.into(),
        5 => "".into(),
        6 => {
            let length = u.int_in_range(0..=12)?;
            String::from_utf8_lossy(u.bytes(length.min(u.len()))?).into()
        }
        7 if depth > 0 => {
            let items = u.int_in_range(0..=4)?;
            (0..items).map(|_| json(u, depth - 1)).collect::<Result<Vec<_>>>()?.into()
        }
        8 if depth > 0 => serde_json::json!({ "content": json(u, depth - 1)?, "type": json(u, depth - 1)? }),
        _ => number(u)?.to_string().into(),
    })
}

/// Replaces a part of a JSON value, chosen by the bytes, by another, or takes it out.
///
/// # Errors
/// As [`number`].
pub fn edit(u: &mut Unstructured<'_>, value: &mut Value) -> Result<()> {
    let mut here = value;
    for _ in 0..8 {
        let go_on = u.arbitrary::<u8>()?;
        if go_on < 64 {
            break;
        }
        let next = match here {
            Value::Object(map) if !map.is_empty() => {
                let at = usize::from(go_on) % map.len();
                let key = map.keys().nth(at).cloned().unwrap_or_default();
                if go_on > 250 {
                    map.remove(&key);
                    return Ok(());
                }
                map.get_mut(&key)
            }
            Value::Array(items) if !items.is_empty() => {
                let at = usize::from(go_on) % items.len();
                if go_on > 250 {
                    items.remove(at);
                    return Ok(());
                }
                items.get_mut(at)
            }
            _ => None,
        };
        match next {
            Some(next) => here = next,
            None => return Ok(()),
        }
    }
    *here = json(u, 2)?;
    Ok(())
}
