//! How long a byte-level BPE tokenizer takes to train, counting words and merging apart, and how well it does.
//!
//! ```sh
//! cargo run --release --example train_tokenizer -- VOCABULARY MAX_WORDS FILE...
//! ```
//!
//! Files are plain text, each one document.

use fathom_dataprep::tokenizer::train::WordCounter;
use std::error::Error;
use std::time::Instant;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [vocabulary, max_words, files @ ..] = arguments.as_slice() else {
        return Err("usage: train_tokenizer VOCABULARY MAX_WORDS FILE...".into());
    };
    let mut counter = WordCounter::new(max_words.parse()?);
    let (mut bytes, start) = (0, Instant::now());
    for file in files {
        let text = String::from_utf8_lossy(&std::fs::read(file)?).into_owned();
        bytes += text.len();
        counter.count(&[text])?;
    }
    let counted = start.elapsed().as_secs_f64();
    let (words, (forgotten, too_long)) = (counter.words(), counter.uncounted());
    println!("{:.1} MB counted in {counted:.1} s: {words} distinct words", bytes as f64 / 1e6);
    println!("{forgotten} occurrences forgotten, {too_long} of words too long");
    let start = Instant::now();
    let tokenizer = counter.train(vocabulary.parse()?)?;
    println!("{} tokens merged in {:.1} s", tokenizer.vocab_size(), start.elapsed().as_secs_f64());
    let (mut encoder, mut ids) = (tokenizer.encoder(), Vec::new());
    for file in files {
        encoder.encode_ordinary(&std::fs::read(file)?, &mut ids)?;
    }
    println!("{:.3} bytes a token on the same text", bytes as f64 / ids.len() as f64);
    Ok(())
}
