//! Main text of pages by the `trafilatura` crate, with the time it takes, for `examples/extract.rs` to score.
//!
//! ```sh
//! cd dataprep/peer && cargo run --release --bin extract -- PAGES PREDICTIONS.json
//! ```
//!
//! `PAGES` is a folder of `ID.html.gz`; times are processor time of one thread, where Linux says it.

#[path = "../../../examples/tokenize/corpus.rs"]
#[allow(dead_code)]
mod corpus;

use corpus::cpu_seconds;
use fathom_dataprep::extract::{ExtractConfig, decode, main_text};
use serde_json::{Map, json};
use std::error::Error;
use std::io::Read;
use std::path::Path;
use trafilatura::{ExtractionFocus, HtmlDateMode, Options};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, predictions] = arguments.as_slice() else {
        return Err("usage: extract PAGES PREDICTIONS.json".into());
    };
    let options = Options::default()
        .with_fallback(true)
        .with_exclude_comments(true)
        .with_focus(ExtractionFocus::FavorPrecision)
        .with_html_date_mode(HtmlDateMode::Disabled);
    let (config, mut texts, mut theirs, mut ours) = (ExtractConfig::default(), Map::new(), 0.0, 0.0);
    for entry in std::fs::read_dir(Path::new(folder))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some(id) = name.strip_suffix(".html.gz") else {
            continue;
        };
        let mut page = Vec::new();
        flate2::read::MultiGzDecoder::new(std::fs::File::open(&path)?).read_to_end(&mut page)?;
        let page = decode(&page, None, None);
        let start = cpu_seconds();
        let text = trafilatura::extract(&page, &options).map(|found| found.content_text).unwrap_or_default();
        theirs += cpu_seconds() - start;
        let start = cpu_seconds();
        // Only its time counts here: `examples/extract.rs` scores it.
        let _ = main_text(&page, &config);
        ours += cpu_seconds() - start;
        texts.insert(id.to_owned(), json!({ "articleBody": text }));
    }
    let each = |seconds: f64| seconds * 1e3 / texts.len().max(1) as f64;
    println!("{} pages: trafilatura {:.1} ms a page, Fathom {:.1}", texts.len(), each(theirs), each(ours));
    std::fs::write(predictions, serde_json::to_vec(&texts)?)?;
    Ok(())
}
