//! `generate --chat`: a conversation on the terminal.

use std::io::{BufRead, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fathom_core::device::Kernels;

use super::Arguments;
use crate::error::{Error, Result};
use crate::infer::{Conversation, Json, Request, Sampling, Stop, single};
use crate::session::Session;

/// Tokens of a conversation where `--cache-tokens` does not say more.
const TOKENS: usize = 32_768;

pub(super) fn run<D: Kernels>(session: &Session<D>, arguments: &Arguments, sampling: &Sampling) -> Result<()> {
    let template = session.chat_template()?;
    // The history grows, and its pages are found again.
    let room = session.context().min(TOKENS);
    let mut engine = session.engine(arguments.engine(session, &[(room, 0)]))?;
    let stop = interrupts()?;
    let terminal = std::io::stdin().is_terminal();
    if terminal {
        eprintln!("Ctrl-C stops an answer, Ctrl-D ends the conversation.");
    }
    let mut history: Vec<(&str, String)> = Vec::new();
    history.extend(arguments.system.iter().map(|text| ("system", text.clone())));
    let mut input = std::io::stdin().lock();
    for turn in 0.. {
        if terminal {
            eprint!("> ");
        }
        let mut line = String::new();
        let read = input.read_line(&mut line).map_err(|e| Error::Run(format!("cannot read stdin: {e}")))?;
        if read == 0 {
            break;
        }
        if line.trim().is_empty() {
            continue;
        }
        history.push(("user", line.trim_end_matches(['\n', '\r']).to_owned()));
        let messages = Json::conversation(history.iter().map(|(role, text)| (*role, text.as_str())));
        let tokens = session.encode_chat(&template, &Conversation::new(&messages))?;
        let request = Request { tokens, sampling: Sampling { request: turn, ..sampling.clone() } };
        stop.store(false, Ordering::SeqCst);
        let mut out = std::io::stdout().lock();
        let answer = single::run(&mut engine, request, &mut |piece| {
            let written = out.write_all(piece.as_bytes()).and_then(|()| out.flush()).is_ok();
            written && !stop.load(Ordering::SeqCst)
        });
        match answer {
            Ok(answer) => {
                if writeln!(out).and_then(|()| out.flush()).is_err() {
                    break;
                }
                match answer.stop {
                    Stop::Length => eprintln!("(stopped after {} tokens: --max-new-tokens)", answer.tokens.len()),
                    Stop::Context => eprintln!("(stopped: the context of {} tokens is full)", session.context()),
                    _ => {}
                }
                history.push(("assistant", answer.text));
            }
            // A message that is too long is not the end of the conversation.
            Err(error) => {
                eprintln!("error: {error}");
                history.pop();
            }
        }
    }
    arguments.print_stats(&engine);
    Ok(())
}

/// A flag that Ctrl-C raises. Nothing else happens.
fn interrupts() -> Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let raised = Arc::clone(&flag);
    ctrlc::set_handler(move || raised.store(true, Ordering::SeqCst))
        .map_err(|e| Error::Run(format!("cannot handle Ctrl-C: {e}")))?;
    Ok(flag)
}
