//! A model inside another program: load a checkpoint, continue a text, ask how probable another is.
//!
//! ```text
//! cargo run --release --example embed -- runs/quickstart "ROMEO:"
//! ```

use std::io::Write;
use std::path::Path;

use fathom::infer::Sampling;
use fathom::session::Session;
use fathom_cpu::Cpu;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("usage: embed CHECKPOINT [PROMPT]")?;
    let prompt = arguments.next().unwrap_or_else(|| "fn main".into());

    let session = Session::load(&Cpu::new(), Path::new(&folder))?;
    let sampling = Sampling { max_new_tokens: 40, temperature: 0.7, seed: 1, ..Sampling::default() };
    print!("{prompt}");
    let generated = session.generate(&prompt, &sampling, |piece| {
        print!("{piece}");
        std::io::stdout().flush().is_ok()
    })?;
    println!("\n\n{} tokens, stopped by {:?}", generated.tokens.len(), generated.stop);

    let scores = session.score_continuation(&prompt, "()")?;
    println!("log probability of {prompt:?} going on with \"()\": {:.3}", scores.sum());
    Ok(())
}
