//! How well main text is extracted: scores against text that people marked in real pages.
//!
//! ```sh
//! cargo run --release --example extract -- PAGES [NAME=PREDICTIONS.json]...
//! ```
//!
//! `PAGES` is a folder as <https://github.com/scrapinghub/article-extraction-benchmark> has it: `ID.html.gz` (in
//! `html/` or the folder itself) and `ground-truth.json`. Further arguments are what other extractors made of the same
//! pages, in that benchmark's format: `{"ID": {"articleBody": "..."}}`.
//!
//! The score is that benchmark's: texts are multisets of 4-grams of words; true positives, false positives and false
//! negatives of a page are divided by their sum, so that each page counts the same; precision and recall are means over
//! the pages that have them, and F1 is the harmonic mean of these two.

use fathom_dataprep::extract::{ExtractConfig, decode, main_text};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::io::Read;
use std::path::Path;
use std::time::Instant;

/// Words of a shingle.
const SHINGLE: usize = 4;

type Texts = BTreeMap<String, String>;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("give the folder of the pages")?;
    let truth = predictions(&Path::new(&folder).join("ground-truth.json"))?;
    let pages = pages(Path::new(&folder), &truth)?;
    let megabytes = pages.values().map(Vec::len).sum::<usize>() as f64 / 1e6;
    println!("{} pages, {megabytes:.1} MB\n", pages.len());
    println!("| extractor | F1 | precision | recall | pages/s |\n|---|---|---|---|---|");
    let (own, seconds) = extract_all(&pages);
    row("Fathom", &truth, &own, &format!("{:.0}", pages.len() as f64 / seconds));
    for argument in arguments {
        let (name, path) = argument.split_once('=').ok_or("other extractors are given as NAME=PREDICTIONS.json")?;
        let mut other = predictions(Path::new(path))?;
        other.retain(|id, _| pages.contains_key(id));
        row(name, &truth, &other, "");
    }
    Ok(())
}

/// `articleBody` of each page in a file of the benchmark.
fn predictions(path: &Path) -> Result<Texts, Box<dyn Error>> {
    let all: BTreeMap<String, Value> = serde_json::from_slice(&std::fs::read(path)?)?;
    Ok(all.into_iter().map(|(id, page)| (id, page["articleBody"].as_str().unwrap_or_default().to_owned())).collect())
}

/// The pages of `truth` that are in the folder.
fn pages(folder: &Path, truth: &Texts) -> Result<BTreeMap<String, Vec<u8>>, Box<dyn Error>> {
    let mut pages = BTreeMap::new();
    for id in truth.keys() {
        let name = format!("{id}.html.gz");
        let path = [folder.join(&name), folder.join("html").join(&name)].into_iter().find(|path| path.exists());
        if let Some(path) = path {
            let mut page = Vec::new();
            flate2::read::MultiGzDecoder::new(std::fs::File::open(path)?).read_to_end(&mut page)?;
            pages.insert(id.clone(), page);
        }
    }
    Ok(pages)
}

/// Texts of all pages by this project, and the seconds they took on one thread.
fn extract_all(pages: &BTreeMap<String, Vec<u8>>) -> (Texts, f64) {
    let config = ExtractConfig::default();
    let start = Instant::now();
    let extract = |page: &[u8]| main_text(&decode(page, None, None), &config).unwrap_or_default();
    let texts = pages.iter().map(|(id, page)| (id.clone(), extract(page))).collect();
    (texts, start.elapsed().as_secs_f64())
}

fn row(name: &str, truth: &Texts, found: &Texts, speed: &str) {
    let counts: Vec<_> = found.iter().filter_map(|(id, text)| Some(Counts::of(truth.get(id)?, text))).collect();
    let mean = |values: Vec<f64>| values.iter().sum::<f64>() / values.len().max(1) as f64;
    let precision = mean(counts.iter().filter_map(|page| ratio(page.both, page.found_only)).collect());
    let recall = mean(counts.iter().filter_map(|page| ratio(page.both, page.true_only)).collect());
    let f1 = 2.0 * precision * recall / (precision + recall);
    println!("| {name} | {f1:.3} | {precision:.3} | {recall:.3} | {speed} |");
}

/// `both` of all, unless there is nothing.
fn ratio(both: f64, only: f64) -> Option<f64> {
    (both + only > 0.0).then(|| both / (both + only))
}

/// Shingles that two texts share and do not share, as parts of all.
struct Counts {
    both: f64,
    found_only: f64,
    true_only: f64,
}

impl Counts {
    fn of(truth: &str, found: &str) -> Self {
        let (mut truth, found) = (shingles(truth), shingles(found));
        let (mut both, mut found_only) = (0.0, 0.0);
        for (shingle, count) in found {
            let shared = truth.get_mut(&shingle).map_or(0, |left| {
                let shared = count.min(*left);
                *left -= shared;
                shared
            });
            both += f64::from(shared);
            found_only += f64::from(count - shared);
        }
        let true_only: f64 = truth.values().map(|&left| f64::from(left)).sum();
        let all = (both + found_only + true_only).max(1.0);
        Self { both: both / all, found_only: found_only / all, true_only: true_only / all }
    }
}

fn shingles(text: &str) -> HashMap<Vec<&str>, u32> {
    let words: Vec<&str> =
        text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty()).collect();
    let mut shingles = HashMap::new();
    // A text shorter than a shingle is one.
    let whole = (!words.is_empty() && words.len() < SHINGLE).then(|| words.clone());
    for shingle in words.windows(SHINGLE).map(<[&str]>::to_vec).chain(whole) {
        *shingles.entry(shingle).or_insert(0) += 1;
    }
    shingles
}
