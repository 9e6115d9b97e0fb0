//! `generate --chat`: a conversation on the terminal.

use std::io::{BufRead, IsTerminal, Read, Write};
use std::sync::atomic::Ordering;

use fathom_core::device::Kernels;

use super::Arguments;
use super::interrupt::{AtPrompt, interrupts};
use crate::error::{Error, Result};
use crate::infer::{Conversation, Json, Request, Sampling, Stop, single};
use crate::session::Session;

/// Bytes of a message, at most.
const MAX_LINE: u64 = 1 << 20;
/// Tokens of a conversation where `--cache-tokens` does not say more.
const TOKENS: usize = 32_768;

pub(super) fn run<D: Kernels>(session: &Session<D>, arguments: &Arguments, sampling: &Sampling) -> Result<()> {
    let template = session.chat_template()?;
    // The history grows, and its pages are found again.
    let room = session.context().min(TOKENS);
    let mut engine = session.engine(arguments.engine(session, &[(room, 0)]))?;
    let stop = interrupts(AtPrompt::Explain)?;
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
        // No answer is left to stop.
        stop.store(true, Ordering::SeqCst);
        let mut line = Vec::new();
        let read = (&mut input).take(MAX_LINE).read_until(b'\n', &mut line);
        if read.map_err(|e| Error::Run(format!("cannot read stdin: {e}")))? == 0 {
            break;
        }
        let line = match String::from_utf8(line) {
            Ok(line) => line,
            Err(error) => {
                eprintln!("error: the message is not UTF-8: {}; write it again", error.utf8_error());
                continue;
            }
        };
        if line.trim().is_empty() {
            continue;
        }
        history.push(("user", line.trim_end_matches(['\n', '\r']).to_owned()));
        let messages = Json::conversation(history.iter().map(|(role, text)| (*role, text.as_str())));
        stop.store(false, Ordering::SeqCst);
        let (mut out, mut open) = (std::io::stdout().lock(), true);
        let mut write = |piece: &str| {
            open = out.write_all(piece.as_bytes()).and_then(|()| out.flush()).is_ok();
            open
        };
        let answer = session.encode_chat(&template, &Conversation::new(&messages)).and_then(|tokens| {
            let request = Request::new(tokens, Sampling { request: turn, ..sampling.clone() });
            single::run(&mut engine, request, &mut write, &|| stop.load(Ordering::SeqCst))
        });
        match answer {
            Ok(answer) => {
                if !open {
                    break;
                }
                if writeln!(out).and_then(|()| out.flush()).is_err() {
                    break;
                }
                match answer.stop {
                    Stop::Length => eprintln!("(stopped after {} tokens: --max-new-tokens)", answer.tokens.len()),
                    Stop::Context => eprintln!("(stopped: the context of {} tokens is full)", session.context()),
                    Stop::Cancelled => eprintln!("(stopped)"),
                    Stop::EndOfText | Stop::Stop => {}
                }
                history.push(("assistant", answer.text));
            }
            // No other message would be answered.
            Err(error @ (Error::NotFinite(_) | Error::Device { .. })) => return Err(error),
            // A message that is too long, or that the template refuses, is not the end of the conversation.
            Err(error) => {
                eprintln!("error: {error}");
                history.pop();
            }
        }
    }
    arguments.print_stats(&engine);
    Ok(())
}
