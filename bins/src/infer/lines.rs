//! Requests from a file of JSON lines, and results as JSON lines: `generate --requests`.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::chat::{Conversation, Json};
use super::request::{Generated, Request};
use super::sampling::Sampling;
use crate::error::{Error, Result};

/// Bytes of a line, at most.
const MAX_LINE: u64 = 64 << 20;

/// One line: a prompt, and any sampling parameters.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Line {
    tokens: Option<Vec<u32>>,
    prompt: Option<String>,
    messages: Option<Json>,
    tools: Option<Json>,
    max_new_tokens: Option<usize>,
    temperature: Option<f64>,
    top_k: Option<usize>,
    top_p: Option<f64>,
    min_p: Option<f64>,
    repetition_penalty: Option<f64>,
    presence_penalty: Option<f64>,
    frequency_penalty: Option<f64>,
    logit_bias: Option<BTreeMap<u32, f32>>,
    stop: Option<OneOrMore>,
    stop_tokens: Option<Vec<u32>>,
    seed: Option<u64>,
    ignore_eos: Option<bool>,
    logprobs: Option<usize>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

/// From texts to tokens, as a model folder does it.
pub struct Encoding<'a> {
    /// The tokens of a prompt.
    pub prompt: &'a dyn Fn(&str) -> Result<Vec<u32>>,
    /// The tokens of a conversation.
    pub chat: &'a dyn Fn(&Conversation<'_>) -> Result<Vec<u32>>,
}

/// Reads requests, one JSON object a line; empty lines are passed over. Parameters that a line leaves out are those of
/// `defaults`. Lines without a seed draw different tokens each; a seed makes a line's tokens its own.
///
/// A conversation that its template refuses, or a text that its tokenizer refuses, is that request's error alone.
///
/// # Errors
/// A file that cannot be read, or a line that is no request; it is named.
pub fn read(
    path: &Path,
    defaults: &Sampling,
    vocabulary: usize,
    encoding: &Encoding<'_>,
) -> Result<Vec<Result<Request>>> {
    let file = std::fs::File::open(path).map_err(Error::io("read", path))?;
    parse(path, BufReader::new(file), defaults, vocabulary, encoding)
}

/// As [`read`], from any input; `path` is only named in errors.
///
/// # Errors
/// Those of [`read`].
pub fn parse(
    path: &Path,
    mut file: impl BufRead,
    defaults: &Sampling,
    vocabulary: usize,
    encoding: &Encoding<'_>,
) -> Result<Vec<Result<Request>>> {
    let mut requests = Vec::new();
    for number in 1.. {
        let mut bytes = Vec::new();
        let limited = (&mut file).take(MAX_LINE + 1).read_until(b'\n', &mut bytes);
        if limited.map_err(Error::io("read", path))? == 0 {
            break;
        }
        let refuse = |problem: String| Error::Line { path: path.into(), line: number, problem };
        if bytes.len() as u64 > MAX_LINE {
            return Err(refuse(format!("the line has more than {MAX_LINE} bytes: cut it")));
        }
        if bytes.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let line: Line = serde_json::from_slice(&bytes).map_err(|e| {
            refuse(format!("{e}; a line is an object of tokens, prompt or messages, and sampling parameters"))
        })?;
        if [line.tokens.is_some(), line.prompt.is_some(), line.messages.is_some()].into_iter().filter(|&x| x).count()
            != 1
        {
            return Err(refuse("needs exactly one of \"tokens\", \"prompt\" and \"messages\"".into()));
        }
        let tokens = line.tokens(encoding);
        let sampling = line.sampling(defaults, number);
        sampling.validate(vocabulary).map_err(|e| refuse(e.to_string()))?;
        requests.push(tokens.map(|tokens| Request::new(tokens, sampling)));
    }
    Ok(requests)
}

impl Line {
    fn tokens(&self, encoding: &Encoding<'_>) -> Result<Vec<u32>> {
        match (&self.tokens, &self.prompt, &self.messages) {
            (Some(tokens), ..) => Ok(tokens.clone()),
            (_, Some(prompt), _) => (encoding.prompt)(prompt),
            (.., Some(messages)) => {
                (encoding.chat)(&Conversation { tools: self.tools.as_ref(), ..Conversation::new(messages) })
            }
            _ => Ok(Vec::new()),
        }
    }

    fn sampling(self, defaults: &Sampling, number: u64) -> Sampling {
        let stop = match self.stop {
            None => defaults.stop.clone(),
            Some(OneOrMore::One(stop)) => vec![stop],
            Some(OneOrMore::More(stops)) => stops,
        };
        Sampling {
            max_new_tokens: self.max_new_tokens.unwrap_or(defaults.max_new_tokens),
            min_new_tokens: defaults.min_new_tokens,
            temperature: self.temperature.unwrap_or(defaults.temperature),
            top_k: self.top_k.unwrap_or(defaults.top_k),
            top_p: self.top_p.unwrap_or(defaults.top_p),
            min_p: self.min_p.unwrap_or(defaults.min_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(defaults.repetition_penalty),
            presence_penalty: self.presence_penalty.unwrap_or(defaults.presence_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(defaults.frequency_penalty),
            logit_bias: self.logit_bias.map_or_else(|| defaults.logit_bias.clone(), |x| x.into_iter().collect()),
            stop,
            stop_tokens: self.stop_tokens.unwrap_or_else(|| defaults.stop_tokens.clone()),
            ignore_eos: self.ignore_eos.unwrap_or(defaults.ignore_eos),
            logprobs: self.logprobs.or(defaults.logprobs),
            request: if self.seed.is_some() { 0 } else { number },
            seed: self.seed.unwrap_or(defaults.seed),
        }
    }
}

/// A result as one JSON object: `tokens`, `text` where there is a tokenizer, `logprobs` and `top_logprobs` where they
/// were asked for, and `stop`; or `error`.
pub fn written(result: &Result<Generated>, with_text: bool, with_logprobs: bool) -> String {
    #[derive(Serialize)]
    struct Line<'a> {
        tokens: &'a [u32],
        #[serde(skip_serializing_if = "Option::is_none")]
        text: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        logprobs: Option<Vec<f32>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        top_logprobs: Option<Vec<&'a [(u32, f32)]>>,
        stop: &'static str,
    }
    let line = match result {
        Err(error) => serde_json::to_string(&BTreeMap::from([("error", error.to_string())])),
        Ok(generated) => serde_json::to_string(&Line {
            tokens: &generated.tokens,
            text: with_text.then_some(&generated.text),
            logprobs: with_logprobs.then(|| generated.logprobs.iter().map(|place| place.chosen).collect()),
            top_logprobs: with_logprobs.then(|| generated.logprobs.iter().map(|place| &place.top[..]).collect()),
            stop: generated.stop.name(),
        }),
    };
    line.unwrap_or_else(|e| format!("{{\"error\":\"{e}\"}}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infer::{Logprobs, Stop};

    fn read_text(text: &str) -> Result<Vec<Result<Request>>> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let encoding = Encoding {
            prompt: &|text| Ok(text.bytes().map(u32::from).collect()),
            chat: &|_| Err(Error::Run("no template".into())),
        };
        read(file.path(), &Sampling { seed: 7, ..Sampling::default() }, 256, &encoding)
    }

    #[test]
    fn lines_are_requests_with_the_parameters_they_name() {
        let text = concat!(
            "{\"tokens\": [1, 2], \"temperature\": 0, \"stop\": \"x\", \"logprobs\": 3, \"seed\": 5}\n\n",
            "{\"prompt\": \"ab\", \"stop\": [\"x\", \"y\"], \"logit_bias\": {\"3\": -1.5}, \"ignore_eos\": true}\n"
        );
        let requests = read_text(text).unwrap();
        let (a, b) = (requests[0].as_ref().unwrap(), requests[1].as_ref().unwrap());
        assert_eq!((&a.tokens[..], a.sampling.temperature, a.sampling.logprobs), (&[1, 2][..], 0.0, Some(3)));
        assert_eq!((a.sampling.seed, a.sampling.request), (5, 0), "a seed makes the tokens the line's own");
        assert_eq!((&b.tokens[..], b.sampling.stop.len(), b.sampling.ignore_eos), (&[97, 98][..], 2, true));
        assert_eq!((b.sampling.seed, b.sampling.request), (7, 3));
        assert_eq!(b.sampling.logit_bias, [(3, -1.5)]);
    }

    #[test]
    fn bad_lines_are_named() {
        for (text, words) in [
            ("{\"prompt\": \"a\"}\n{", ":2: "),
            ("{\"promt\": \"a\"}", "promt"),
            ("{\"prompt\": \"a\", \"tokens\": [1]}", "exactly one"),
            ("{}", "exactly one"),
            ("{\"prompt\": \"a\", \"top_p\": 3}", "top_p 3: must be"),
            ("{\"tokens\": [-1]}", "-1"),
            ("\u{fffd}", "sampling parameters"),
        ] {
            let error = read_text(text).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        // A template or a tokenizer that refuses a line does not refuse the file.
        let requests = read_text("{\"messages\": []}\n{\"prompt\": \"a\"}").unwrap();
        assert_eq!(requests[0].as_ref().unwrap_err().to_string(), "no template");
        assert_eq!(requests[1].as_ref().unwrap().tokens, [97]);
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("x"), b"{\"prompt\": \"\xff\"}").unwrap();
        let encoding = Encoding { prompt: &|_| Ok(vec![]), chat: &|_| Ok(vec![]) };
        let error = read(&folder.path().join("x"), &Sampling::default(), 256, &encoding).unwrap_err();
        assert!(error.to_string().contains("x:1: "), "{error}");
    }

    #[test]
    fn results_are_written_as_documented() {
        let logprobs = vec![Logprobs { chosen: -0.5, top: vec![(7, -0.5), (1, -1.25)] }];
        let generated = Generated { tokens: vec![7], text: "é\n".into(), logprobs, stop: Stop::Length };
        let text = written(&Ok(generated), true, true);
        let want =
            r#"{"tokens":[7],"text":"é\n","logprobs":[-0.5],"top_logprobs":[[[7,-0.5],[1,-1.25]]],"stop":"length"}"#;
        assert_eq!(text, want);
        assert_eq!(written(&Err(Error::Run("bad \"x\"".into())), true, true), r#"{"error":"bad \"x\""}"#);
    }
}
