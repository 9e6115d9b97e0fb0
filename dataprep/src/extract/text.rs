//! The text of a part of a page: one line a paragraph, heading, item or table row.

use super::tree::{Id, Tag, Tags, Tree};

/// Elements that begin and end a line.
const BLOCKS: Tags = Tags::of(&[
    Tag::Address,
    Tag::Article,
    Tag::Aside,
    Tag::Blockquote,
    Tag::Body,
    Tag::Dd,
    Tag::Details,
    Tag::Div,
    Tag::Dl,
    Tag::Dt,
    Tag::Fieldset,
    Tag::Figcaption,
    Tag::Figure,
    Tag::Footer,
    Tag::Form,
    Tag::H1,
    Tag::H2,
    Tag::H3,
    Tag::H4,
    Tag::H5,
    Tag::H6,
    Tag::Header,
    Tag::Hr,
    Tag::Li,
    Tag::Main,
    Tag::Nav,
    Tag::Ol,
    Tag::P,
    Tag::Pre,
    Tag::Section,
    Tag::Summary,
    Tag::Table,
    Tag::Tbody,
    Tag::Thead,
    Tag::Tr,
    Tag::Ul,
]);

/// What stands before an item of a list.
const BULLET: &str = "- ";

/// The text below `top`. White space is one space or a new line, but for `pre`, which stays as it is.
pub(super) fn of(tree: &Tree, top: Id) -> String {
    let mut lines = Lines::default();
    // Without recursion: children first, then back up until there is a next sibling.
    let mut id = top;
    loop {
        lines.open(tree, id);
        if let Some(child) = tree.children(id).next() {
            id = child;
            continue;
        }
        loop {
            lines.close(tree.tag(id));
            if id == top {
                return lines.finish();
            }
            if let Some(next) = tree.next(id) {
                id = next;
                break;
            }
            id = tree.parent(id);
        }
    }
}

#[derive(Default)]
struct Lines {
    text: String,
    /// Where the present line begins in the text.
    start: usize,
    /// White space was met since the last word.
    space: bool,
    /// `pre` elements that are open.
    verbatim: u32,
    /// The present line is a table row with a cell in it.
    cell: bool,
}

impl Lines {
    fn open(&mut self, tree: &Tree, id: Id) {
        match tree.tag(id) {
            Tag::Text => self.add(tree.text_of(id)),
            Tag::Pre => {
                self.end_line();
                self.verbatim += 1;
            }
            Tag::Br => self.end_line(),
            Tag::Li => {
                self.end_line();
                self.text.push_str(BULLET);
            }
            Tag::Td | Tag::Th => {
                if self.cell {
                    self.trim();
                    self.text.push_str(" | ");
                    self.space = false;
                }
                self.cell = true;
            }
            tag if BLOCKS.has(tag) => self.end_line(),
            _ => {}
        }
    }

    fn close(&mut self, tag: Tag) {
        if tag == Tag::Li && self.text.get(self.start..) == Some(BULLET) {
            self.text.truncate(self.start);
        }
        if BLOCKS.has(tag) {
            self.end_line();
        }
        if tag == Tag::Pre {
            self.verbatim = self.verbatim.saturating_sub(1);
        }
    }

    fn add(&mut self, text: &str) {
        if self.verbatim > 0 {
            self.text.push_str(text);
            return;
        }
        for (i, word) in text.split(char::is_whitespace).enumerate() {
            self.space |= i > 0;
            if !word.is_empty() {
                if self.space && self.text.len() > self.start && !self.text.ends_with(' ') {
                    self.text.push(' ');
                }
                self.text.push_str(word);
                self.space = false;
            }
        }
    }

    fn trim(&mut self) {
        let end = self.text.trim_end_matches(char::is_whitespace).len().max(self.start);
        self.text.truncate(end);
    }

    /// Ends the line, unless nothing is on it.
    fn end_line(&mut self) {
        if self.text.get(self.start..) == Some(BULLET) {
            // It waits for the first words of its item.
            return;
        }
        self.trim();
        if self.text.len() > self.start {
            self.text.push('\n');
            self.start = self.text.len();
        }
        (self.space, self.cell) = (false, false);
    }

    fn finish(mut self) -> String {
        self.end_line();
        self.start = 0;
        self.trim();
        self.text
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse::parse;
    use super::super::tree::ROOT;
    use super::*;
    use proptest::prelude::*;

    fn of_html(html: &str) -> String {
        of(&parse(html, u32::MAX, u32::MAX).unwrap(), ROOT)
    }

    #[test]
    fn blocks_are_lines() {
        let html = "<div><h1>Title</h1><p>One  <b>bold</b>, <i>two</i>.\n Three<br>four</p><ul><li>a</li><li><p>b</p></li><li> </li></ul>\
                    <table><tr><th>x</th><th>y </th></tr><tr><td>1</td><td></td><td>2</td></tr></table><pre>  if x:\n    y\n</pre>end</div>";
        let text = "Title\nOne bold, two. Three\nfour\n- a\n- b\nx | y\n1 | | 2\n  if x:\n    y\nend";
        assert_eq!(of_html(html), text);
        assert_eq!(of_html("a &amp; b<span> c</span>"), "a & b c");
        assert_eq!(of_html(""), "");
    }

    #[test]
    fn depth_needs_no_stack() {
        assert_eq!(of_html(&("<i>".repeat(100_000) + "x")), "x");
    }

    proptest! {
        #[test]
        fn no_markup_panics(html in "(<(p|li|td|tr|pre|b|br|/p|/li|/pre|/td)>|[ab é\n]){0,40}") {
            let text = of_html(&html);
            prop_assert!(!text.ends_with(char::is_whitespace), "{text:?}");
        }
    }
}
