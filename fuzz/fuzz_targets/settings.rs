//! Settings as written: the text of a configuration file, then values of `--set`.
//!
//! What is accepted is written and read back as the same; what is not is an error that says something.
#![no_main]

use std::path::Path;

use fathom::settings::{Settings, SettingsError, Source, keys};
use fathom_fuzz::{NUMBERS, Result, Unstructured, number, one};
use libfuzzer_sys::fuzz_target;

/// Values that more than one kind of key takes, and some that none does.
const VALUES: [&str; 20] = [
    "true",
    "false",
    "0",
    "-1",
    "1e3",
    "0.5",
    "nan",
    "inf",
    "1e308",
    "[]",
    "['a', 'b']",
    "{}",
    "{ a = 1 }",
    "bf16",
    "fp8",
    "cosine",
    "'a'",
    "9223372036854775807",
    "1979-05-27T07:32:00Z",
    "\"\"\"",
];
const MODEL: [&str; 8] = ["tiny", "small", "v2-lite", "v2-236b", "moonlight-16b", "v3-671b", "", "v9"];

fuzz_target!(|data: &[u8]| {
    let Some((&choice, bytes)) = data.split_first() else {
        return;
    };
    let source =
        if choice & 1 == 0 { raw(bytes) } else { made(&mut Unstructured::new(bytes)).unwrap_or_else(|_| raw(b"")) };
    match source.and_then(Settings::new) {
        Ok(settings) => accepted(&settings),
        Err(error) => assert!(error.to_string().len() > 8, "{error:?}"),
    }
});

/// The text of a file, and after each zero byte a value of `--set`.
fn raw(bytes: &[u8]) -> Result<Source, SettingsError> {
    let mut source = Source::default();
    let mut parts = bytes.split(|&byte| byte == 0).map(String::from_utf8_lossy);
    source.add_file(Path::new("file.toml"), &parts.next().unwrap_or_default())?;
    parts.try_for_each(|set| source.add_set(&set))?;
    Ok(source)
}

/// Known keys with values that are mostly of the right kind.
fn made(u: &mut Unstructured<'_>) -> Result<Result<Source, SettingsError>> {
    let mut source = Source::default();
    while !u.is_empty() {
        let set = match u.arbitrary::<u8>()? {
            0..16 => format!("model.preset={}", one(u, &MODEL)?),
            16..80 => format!("model.{}={}", one(u, fathom_core::config::FIELDS)?, value(u)?),
            _ => format!("{}={}", one(u, keys::KEYS)?.name, value(u)?),
        };
        if let Err(error) = source.add_set(&set) {
            return Ok(Err(error));
        }
    }
    Ok(Ok(source))
}

fn value(u: &mut Unstructured<'_>) -> Result<String> {
    Ok(match u.arbitrary::<u8>()? {
        0..100 => number(u)?.to_string(),
        100..140 => format!("{:e}", u.arbitrary::<f32>()?),
        140..160 => one(u, &NUMBERS)?.to_string(),
        160..250 => (*one(u, &VALUES)?).to_owned(),
        _ => {
            let length = usize::from(u.arbitrary::<u8>()? % 16).min(u.len());
            String::from_utf8_lossy(u.bytes(length)?).into_owned()
        }
    })
}

/// What is written is read as the same, and a run of it has a length and a schedule.
fn accepted(settings: &Settings) {
    let (tokens, steps) = settings.budget().expect("it was checked");
    assert!(steps > 0 && tokens > 0);
    let rates = settings.schedule().expect("it was checked").at(tokens / 2);
    assert!(rates.lr.is_finite() && rates.batch_size > 0, "{rates:?}");
    let written = settings.to_toml();
    let mut source = Source::default();
    source.add_file(Path::new("written.toml"), &written).unwrap_or_else(|e| panic!("{e}\n{written}"));
    let again = Settings::new(source).unwrap_or_else(|e| panic!("{e}\n{written}"));
    assert_eq!(again.to_toml(), written);
}
