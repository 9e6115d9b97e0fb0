//! A chat template and a conversation: the text and the tokens of a prompt, or an error that says where.
//!
//! Templates are raw text, or pieces of real ones in any order.
#![no_main]

use std::collections::BTreeMap;
use std::sync::LazyLock;

use fathom::infer::{ChatTemplate, Conversation, Json};
use fathom_dataprep::Tokenizer;
use fathom_fuzz::{Result, Unstructured, json, one, text};
use libfuzzer_sys::fuzz_target;
use serde_json::json;

/// The most work of an input: a template may loop over a message, and real ones do so less than this.
const MAX_INPUT: usize = 2048;

/// Pieces of templates: blocks open and close in any order, filters and methods of Python stand in expressions.
const PIECES: [&str; 72] = [
    "{% for m in messages %}",
    "{% endfor %}",
    "{% if m.role == 'user' %}",
    "{% elif m['role'] == 'system' -%}",
    "{%- else -%}",
    "{% endif %}",
    "{{ m.content }}",
    "{{ m['content'] | trim }}",
    "{{ bos_token }}",
    "{{ eos_token }}",
    "{% if add_generation_prompt %}",
    "{{ '<\u{ff5c}Assistant\u{ff5c}>' }}",
    "{{ m | tojson }}",
    "{{ tools | tojson(indent=4) }}",
    "{{ messages | tojson(ensure_ascii=False, sort_keys=true) }}",
    "{{ m.content.split('</think>')[-1] }}",
    "{{ m.content.rsplit('>', 1)[0].strip() }}",
    "{{ m.content.partition('x') }}",
    "{{ m.content.removeprefix('a') }}",
    "{{ raise_exception('no') }}",
    "{{ strftime_now('%d %B %Y %j') }}",
    "{{ strftime_now(m.content) }}",
    "{% set ns = namespace(a=[1], s='', n=0) %}",
    "{% set ns.n = ns.n + 1 %}",
    "{% set ns.s = ns.s + m.content %}",
    "{% set ns.a = [ns.a, ns.a] %}",
    "{{ ns.a | tojson }}",
    "{{ ns.a }}",
    "{{ ns.s * 3 }}",
    "{{ ns.n // 0 }}",
    "{% for i in range(9) %}",
    "{% for i in range(99999) %}",
    "{% break %}",
    "{% continue %}",
    "{{ loop.index0 }}",
    "{{ loop.cycle('a', 'b') }}",
    "{% if loop.first %}",
    "{% if loop.last %}",
    "{% macro f(x, y=1) %}",
    "{% endmacro %}",
    "{{ f(m) }}",
    "{{ f(f) }}",
    "{% generation %}",
    "{%- endgeneration -%}",
    "{% set x = m.content | length %}",
    "{{ x }}",
    "{% if m.tool_calls is defined and m.tool_calls %}",
    "{{ m.tool_calls[0].function.arguments | tojson }}",
    "{% if m.content is string %}",
    "{% if m.content is mapping %}",
    "{% if m is not none %}",
    "{{ m.content[::-1] }}",
    "{{ m.content[1:-1:2] }}",
    "{{ m.content[-9223372036854775808:] }}",
    "{{ messages[1:] | map(attribute='role') | join(',') }}",
    "{{ messages | selectattr('role', 'equalto', 'user') | list }}",
    "{{ undefined.a.b }}",
    "{{ x | default('d', true) }}",
    "{{ x | d(boolean=true, default_value=[]) }}",
    "{# note #}",
    "{{ 2 ** 64 }}",
    "{{ 9223372036854775807 + 1 }}",
    "{{ '%s' | format(m) }}",
    "{{ dict(a=1).items() }}",
    "{{ m.items() | list }}",
    "{{ m.get('x', 'y') }}",
    "{{ m.content.replace('a', 'aaaa') }}",
    "{{ 'x'.join(messages) }}",
    "{{ '\\u00e9' ~ 1.5e300 }}",
    "{{- -1 % 0 }}",
    "{% set messages = messages + messages %}",
    "\n",
];

static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(Tokenizer::bytes);

fuzz_target!(|data: &[u8]| {
    let Some((&choice, bytes)) = data.split_first() else {
        return;
    };
    if bytes.len() > MAX_INPUT {
        return;
    }
    let parts = match choice & 1 {
        0 => text(bytes).map(|(source, rest)| (source.to_owned(), rest.to_vec())),
        _ => bytes.split_first().map(|(&count, rest)| made(rest, usize::from(count) % 32)),
    };
    let Some((source, rest)) = parts else {
        return;
    };
    let special = [("bos_token", "<b>"), ("eos_token", "<|endoftext|>")].map(|(key, text)| (key.into(), text.into()));
    let template = match ChatTemplate::new(&source, "template", BTreeMap::from(special)) {
        Ok(template) => template,
        Err(error) => return assert!(error.to_string().contains("template"), "{error}"),
    };
    let (messages, tools) = conversation(&mut Unstructured::new(&rest)).unwrap_or_default();
    let (messages, tools) = (Json::parse(&messages), Json::parse(&tools).ok());
    let Ok(messages) = messages else {
        return;
    };
    let conversation = Conversation {
        messages: &messages,
        tools: tools.as_ref(),
        variables: &[],
        add_generation_prompt: choice & 2 != 0,
    };
    let rendered = template.render(&conversation);
    match &rendered {
        Ok(text) => assert!(text.len() < 1 << 28, "{} bytes", text.len()),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    // A mark inside a token may change what a template does, so the two may fail apart.
    if let (Ok(tokens), Ok(_)) = (template.encode(&TOKENIZER, &conversation), &rendered) {
        assert!(tokens.iter().all(|&token| token < TOKENIZER.vocab_size()));
    }
});

/// Pieces, and the bytes after them.
fn made(bytes: &[u8], count: usize) -> (String, Vec<u8>) {
    let (chosen, rest) = bytes.split_at(count.min(bytes.len()));
    let piece = |byte: &u8| PIECES[usize::from(*byte) % PIECES.len()];
    (chosen.iter().map(piece).collect(), rest.to_vec())
}

/// JSON of messages and tools.
fn conversation(u: &mut Unstructured<'_>) -> Result<(String, String)> {
    let count = u.int_in_range(0..=4)?;
    let messages = (0..count).map(|_| message(u)).collect::<Result<Vec<_>>>()?;
    let tools = json(u, 3)?;
    Ok((json!(messages).to_string(), tools.to_string()))
}

fn message(u: &mut Unstructured<'_>) -> Result<serde_json::Value> {
    let role = *one(u, &["user", "assistant", "system", "tool", ""])?;
    let content =
        *one(u, &["plain", "<think>a</think> b", "", "%d %Q", "<|endoftext|>", "a\u{fdd0}b", "\u{e9}\u{4f60}"])?;
    Ok(match u.arbitrary::<u8>()? % 4 {
        0 => json(u, 3)?,
        1 => json!({ "role": role, "content": json(u, 3)? }),
        2 => json!({ "role": role, "content": content, "tool_calls": [{ "function": { "arguments": json(u, 3)? } }] }),
        _ => json!({ "role": role, "content": content }),
    })
}
