//! Splits a page into tags, text and comments for `html5ever`'s tree builder, by the rules of the HTML standard.
//!
//! Beside `html5ever`'s own tokenizer, which may get a page in pieces and goes from character to character, this one
//! has all of it, goes from run to run, and passes over what nobody looks at: most attributes, comments, scripts and
//! style sheets.

use super::super::tree::{self, Attribute, Id, List};
use super::builder::{Builder, UNSHOWN, numbered};
use super::reference;
use super::script::{script_end, text_end};
use html5ever::buffer_queue::BufferQueue;
use html5ever::tendril::StrTendril;
use html5ever::tokenizer::states::RawKind;
use html5ever::tokenizer::{Doctype, Tag, TagKind, Token, TokenSink, TokenSinkResult, Tokenizer, TokenizerOpts};
use html5ever::tree_builder::TreeBuilder;
use html5ever::{Attribute as BuilderAttribute, LocalName, QualName, local_name, ns};
use rustc_hash::FxHashMap;
use std::borrow::Cow;
use std::cell::RefCell;

/// A page on its way into a tree.
pub(super) struct Markup<'p> {
    /// Lines end with `\n` alone.
    page: &'p str,
    /// The same, for texts that share it.
    shared: StrTendril,
    at: usize,
    builder: TreeBuilder<Id, Builder>,
    /// All attributes of formatting elements, each set of them with the number of its list.
    formats: FxHashMap<Vec<(String, String)>, u32>,
}

/// The number of a line, which is for reports of errors.
const LINE: u64 = 1;

/// Elements that the tree builder opens again where they were not closed, each with its attributes, and of which it
/// opens no more than three that are equal.
fn is_format(name: &LocalName) -> bool {
    matches!(
        *name,
        local_name!("b")
            | local_name!("big")
            | local_name!("code")
            | local_name!("em")
            | local_name!("font")
            | local_name!("i")
            | local_name!("nobr")
            | local_name!("s")
            | local_name!("small")
            | local_name!("strike")
            | local_name!("strong")
            | local_name!("tt")
            | local_name!("u")
    )
}

/// Does the tree builder itself look at this attribute?
fn is_for_builder(element: &LocalName, name: &[u8]) -> bool {
    let names: &[&[u8]] = match *element {
        local_name!("input") => &[b"type"],
        local_name!("font") => &[b"color", b"face", b"size"],
        _ => &[],
    };
    names.iter().any(|it| name.eq_ignore_ascii_case(it))
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b'\t' | b'\n' | b'\x0c' | b' ')
}

/// A tag of which all is read.
struct Read {
    tag: Tag,
    /// What is to be kept of its attributes.
    list: List,
}

impl<'p> Markup<'p> {
    /// `page` has lines that end with `\n` alone.
    pub(super) fn new(page: &'p str, builder: Builder) -> Self {
        let at = if page.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
        let builder = TreeBuilder::new(builder, Default::default());
        Self { page, shared: StrTendril::from_slice(page), at, builder, formats: FxHashMap::default() }
    }

    /// What was built so far.
    pub(super) fn builder(&self) -> &Builder {
        &self.builder.sink
    }

    /// What was built.
    pub(super) fn into_builder(self) -> Builder {
        self.builder.sink
    }

    /// Gives the next tag, text or comment to the tree builder; false at the end.
    pub(super) fn step(&mut self) -> bool {
        match self.rest() {
            [] => {
                self.give(Token::EOFToken);
                self.builder.end();
                return false;
            }
            [b'<', b'/', b'a'..=b'z' | b'A'..=b'Z', ..] => self.tag(TagKind::EndTag, 2),
            [b'<', b'a'..=b'z' | b'A'..=b'Z', ..] => self.tag(TagKind::StartTag, 1),
            [b'<', b'!', ..] => self.declaration(),
            // An end tag without a name is nothing.
            [b'<', b'/', b'>', ..] => self.at += 3,
            [b'<', b'/', _, ..] => self.bogus_comment(2),
            [b'<', b'?', ..] => self.bogus_comment(1),
            [0, ..] => {
                self.give(Token::NullCharacterToken);
                self.at += 1;
            }
            _ => self.text(),
        }
        true
    }

    fn rest(&self) -> &'p [u8] {
        self.page.as_bytes().get(self.at..).unwrap_or_default()
    }

    /// Gives the tree builder what it has nothing to answer to.
    fn give(&mut self, token: Token) {
        let _ = self.builder.process_token(token, LINE);
    }

    /// Text up to the next tag, comment or NUL.
    fn text(&mut self) {
        let bytes = self.page.as_bytes();
        // What references made of the text in front of `copied`.
        let mut text = StrTendril::new();
        let (mut copied, mut at) = (self.at, self.at);
        loop {
            let Some(found) = bytes.get(at..).and_then(|rest| memchr::memchr3(b'<', b'&', 0, rest)) else {
                at = bytes.len();
                break;
            };
            at += found;
            match &bytes[at..] {
                [0, ..] | [b'<', b'a'..=b'z' | b'A'..=b'Z' | b'!' | b'?', ..] | [b'<', b'/', _, ..] => break,
                [b'&', rest @ ..] => {
                    if let Some((first, second, length)) = reference::find(rest, false) {
                        text.push_slice(&self.page[copied..at]);
                        text.push_char(first);
                        second.iter().for_each(|&c| text.push_char(c));
                        at += length;
                        copied = at + 1;
                    }
                    at += 1;
                }
                _ => at += 1,
            }
        }
        if copied == self.at {
            text = self.part(copied, at);
        } else {
            text.push_slice(&self.page[copied..at]);
        }
        self.at = at;
        self.give(Token::CharacterTokens(text));
    }

    fn part(&self, start: usize, end: usize) -> StrTendril {
        self.shared.subtendril(start as u32, (end - start) as u32)
    }

    /// A start tag, or an end tag, whose name begins `skip` bytes from here.
    fn tag(&mut self, kind: TagKind, skip: usize) {
        self.at += skip;
        let name = self.name();
        let Some(Read { tag, list }) = self.attributes(kind, name) else {
            // It breaks off.
            self.at = self.page.len();
            return;
        };
        let (name, is_start) = (tag.name.clone(), kind == TagKind::StartTag);
        let before = self.builder.sink.inside().nodes();
        let result = self.builder.process_token(Token::TagToken(tag), LINE);
        if list.0 < list.1 {
            self.builder.sink.inside().give(before, &name, list);
        }
        match result {
            TokenSinkResult::RawData(kind) if is_start => self.raw(kind, &name),
            TokenSinkResult::Plaintext => {
                let end = self.page.len();
                self.raw_text(end, false);
            }
            // Scripts are not run, and the page is decoded.
            _ => {}
        }
    }

    /// The name of a tag.
    fn name(&mut self) -> LocalName {
        let rest = self.rest();
        let ends = |byte: &u8| is_space(*byte) || matches!(byte, b'/' | b'>');
        let length = rest.iter().position(ends).unwrap_or(rest.len());
        let name = &self.page[self.at..self.at + length];
        self.at += length;
        if name.bytes().all(|byte| byte.is_ascii_lowercase()) {
            return LocalName::from(name);
        }
        LocalName::from(name.to_ascii_lowercase().replace('\0', "\u{fffd}"))
    }

    /// The attributes of a tag and its end; nothing where it breaks off.
    fn attributes(&mut self, kind: TagKind, element: LocalName) -> Option<Read> {
        let bytes = self.page.as_bytes();
        let (is_start, is_format) = (kind == TagKind::StartTag, kind == TagKind::StartTag && is_format(&element));
        let (mut attrs, mut all) = (Vec::new(), Vec::new());
        let mut list = self.builder.sink.inside().tree.attributes().begin();
        let self_closing = loop {
            match *bytes.get(self.at)? {
                b'>' => break false,
                b'/' if *bytes.get(self.at + 1)? == b'>' => {
                    self.at += 1;
                    break true;
                }
                byte if byte == b'/' || is_space(byte) => {
                    self.at += 1;
                    continue;
                }
                _ => {}
            }
            let start = self.at;
            let ends = |byte: &u8| is_space(*byte) || matches!(byte, b'/' | b'>' | b'=');
            // The first character is part of the name, whatever it is.
            self.at += 1;
            self.at += bytes.get(self.at..)?.iter().position(ends)?;
            let name = &bytes[start..self.at];
            let (start, end) = self.value()?;
            if !is_start {
                continue;
            }
            let attribute = Attribute::named(name);
            if attribute.is_none() && !is_format && !is_for_builder(&element, name) {
                continue;
            }
            let value = decoded(&self.page[start..end]);
            if let Some(attribute) = attribute {
                self.builder.sink.inside().tree.attributes().add(&mut list, attribute, &value);
            }
            let name = String::from_utf8_lossy(name).to_ascii_lowercase().replace('\0', "\u{fffd}");
            // The first of a name counts.
            if is_for_builder(&element, name.as_bytes())
                && attrs.iter().all(|it: &BuilderAttribute| *it.name.local != *name)
            {
                let name = QualName::new(None, ns!(), LocalName::from(&*name));
                attrs.push(BuilderAttribute { name, value: StrTendril::from_slice(&value) });
            }
            if is_format {
                all.push((name, value.into_owned()));
            }
        };
        self.at += 1;
        let number = match element {
            _ if !is_start => None,
            local_name!("a") | local_name!("html") | local_name!("body") if list.0 < list.1 => {
                Some(self.builder.sink.inside().number(list))
            }
            _ if !all.is_empty() => {
                // Equal names stay in their order, of which the first counts.
                all.sort_by(|a, b| a.0.cmp(&b.0));
                all.dedup_by(|later, first| later.0 == first.0);
                let mut inside = self.builder.sink.inside();
                Some(*self.formats.entry(all).or_insert_with(|| inside.number(list)))
            }
            _ => None,
        };
        if let Some(number) = number {
            attrs.push(numbered(number));
            list = (0, 0);
        }
        let had_duplicate_attributes = false;
        Some(Read { tag: Tag { kind, name: element, self_closing, attrs, had_duplicate_attributes }, list })
    }

    /// Where the value of an attribute begins and ends, which follows its name if it has one; nothing where the tag
    /// breaks off.
    fn value(&mut self) -> Option<(usize, usize)> {
        let bytes = self.page.as_bytes();
        let past_space = |at: usize| Some(at + bytes.get(at..)?.iter().position(|&byte| !is_space(byte))?);
        let equals = past_space(self.at)?;
        if bytes[equals] != b'=' {
            return Some((equals, equals));
        }
        let start = past_space(equals + 1)?;
        let (start, end, after) = match bytes[start] {
            quote @ (b'"' | b'\'') => {
                let end = start + 1 + memchr::memchr(quote, &bytes[start + 1..])?;
                (start + 1, end, end + 1)
            }
            _ => {
                let end = start + bytes[start..].iter().position(|&byte| is_space(byte) || byte == b'>')?;
                (start, end, end)
            }
        };
        self.at = after;
        Some((start, end))
    }

    /// The content of an element that has no tags, up to the tag that ends it.
    fn raw(&mut self, kind: RawKind, name: &LocalName) {
        let rest = self.rest();
        let length = if kind == RawKind::ScriptData { script_end(rest) } else { text_end(rest, name) };
        let end = self.at + length;
        if UNSHOWN.has(tree::Tag::named(name)) {
            self.at = end;
        } else {
            self.raw_text(end, kind == RawKind::Rcdata);
        }
    }

    /// Text up to `end`, whatever it looks like, perhaps with references.
    fn raw_text(&mut self, end: usize, has_references: bool) {
        let text = &self.page[self.at..end];
        let text = if has_references { references(text, false) } else { Cow::Borrowed(text) };
        self.at = end;
        self.give(Token::CharacterTokens(StrTendril::from_slice(&without_nul(text))));
    }

    /// A comment, a document type, a `CDATA` section, or what is taken for a comment.
    fn declaration(&mut self) {
        let rest = &self.rest()[2..];
        if let Some(comment) = rest.strip_prefix(b"--") {
            let length = comment_end(comment);
            self.at += 4 + length;
            self.give(Token::CommentToken(StrTendril::new()));
        } else if rest.get(..7).is_some_and(|start| start.eq_ignore_ascii_case(b"doctype")) {
            let end = memchr::memchr(b'>', rest).map_or(rest.len(), |end| end + 1);
            let declaration = self.part(self.at, self.at + 2 + end);
            self.at += 2 + end;
            self.give(Token::DoctypeToken(document_type(declaration)));
        } else if rest.starts_with(b"[CDATA[") && self.builder.adjusted_current_node_present_but_not_in_html_namespace()
        {
            self.at += 9;
            let rest = self.rest();
            let length = memchr::memmem::find(rest, b"]]>");
            let end = self.at + length.unwrap_or(rest.len());
            for (i, part) in self.page[self.at..end].split('\0').enumerate() {
                if i > 0 {
                    self.give(Token::NullCharacterToken);
                }
                self.give(Token::CharacterTokens(StrTendril::from_slice(part)));
            }
            self.at = length.map_or(end, |_| end + 3);
        } else {
            self.bogus_comment(2);
        }
    }

    /// What is no tag, up to a `>` that is not within `skip` bytes.
    fn bogus_comment(&mut self, skip: usize) {
        let rest = &self.rest()[skip..];
        self.at += skip + memchr::memchr(b'>', rest).map_or(rest.len(), |end| end + 1);
        self.give(Token::CommentToken(StrTendril::new()));
    }
}

/// Bytes of a comment behind `<!--`, with its end.
fn comment_end(comment: &[u8]) -> usize {
    for end in [&b">"[..], b"->"] {
        if comment.starts_with(end) {
            return end.len();
        }
    }
    let ends = |&at: &usize| comment[..at].ends_with(b"--") || comment[..at].ends_with(b"--!");
    memchr::memchr_iter(b'>', comment).find(ends).map_or(comment.len(), |at| at + 1)
}

/// What a document type declares, which says how old the page is.
fn document_type(declaration: StrTendril) -> Doctype {
    #[derive(Default)]
    struct Found(RefCell<Doctype>);

    impl TokenSink for Found {
        type Handle = ();

        fn process_token(&self, token: Token, _: u64) -> TokenSinkResult<()> {
            if let Token::DoctypeToken(found) = token {
                self.0.replace(found);
            }
            TokenSinkResult::Continue
        }
    }

    let tokenizer = Tokenizer::new(Found::default(), TokenizerOpts::default());
    let input = BufferQueue::default();
    input.push_back(declaration);
    let _ = tokenizer.feed(&input);
    tokenizer.end();
    tokenizer.sink.0.into_inner()
}

/// The value of an attribute that reads `text` in the page.
fn decoded(text: &str) -> Cow<'_, str> {
    without_nul(references(text, true))
}

fn without_nul(text: Cow<'_, str>) -> Cow<'_, str> {
    if memchr::memchr(0, text.as_bytes()).is_none() { text } else { text.replace('\0', "\u{fffd}").into() }
}

/// `text` with what its references stand for.
fn references(text: &str, in_attribute: bool) -> Cow<'_, str> {
    let bytes = text.as_bytes();
    let (mut decoded, mut copied) = (String::new(), 0);
    for at in memchr::memchr_iter(b'&', bytes) {
        if let Some((first, second, length)) = reference::find(&bytes[at + 1..], in_attribute) {
            decoded.push_str(&text[copied..at]);
            decoded.push(first);
            decoded.extend(second);
            copied = at + 1 + length;
        }
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    decoded.push_str(&text[copied..]);
    Cow::Owned(decoded)
}
