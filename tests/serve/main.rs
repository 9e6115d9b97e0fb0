//! `serve` speaks OpenAI's protocol: answers, streams, errors, limits, and what happens to clients that misbehave.

mod answers;
mod client;
mod formats;
mod hostile;
mod limits;
mod openapi;
mod operation;
mod page;
mod tokens;

use std::path::Path;

use fathom::infer::{Generated, Sampling};
use fathom::session::Session;
use fathom_cpu::Cpu;

/// What the library generates: the same model without a server.
fn generated(folder: &Path, prompt: &str, sampling: &Sampling) -> Generated {
    let device = Cpu::with_threads(1);
    Session::load(&device, folder).unwrap().generate(prompt, sampling, |_| true).unwrap()
}

fn greedy(max_new_tokens: usize) -> Sampling {
    Sampling { max_new_tokens, temperature: 0.0, ..Sampling::default() }
}
