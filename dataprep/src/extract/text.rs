//! The text of a piece of HTML: one line a paragraph, heading, item or table row.

use scraper::{Html, Node};

/// Elements that begin and end a line.
const BLOCKS: [&str; 36] = [
    "address",
    "article",
    "aside",
    "blockquote",
    "body",
    "dd",
    "details",
    "div",
    "dl",
    "dt",
    "fieldset",
    "figcaption",
    "figure",
    "footer",
    "form",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "header",
    "hr",
    "li",
    "main",
    "nav",
    "ol",
    "p",
    "pre",
    "section",
    "summary",
    "table",
    "tbody",
    "thead",
    "tr",
    "ul",
];

/// What stands before an item of a list.
const BULLET: &str = "- ";

/// The text of `html`. White space is one space or a new line, but for `pre`, which stays as it is.
pub(super) fn of_html(html: &str) -> String {
    let tree = Html::parse_fragment(html);
    let mut lines = Lines::default();
    // Without recursion: children first, then back up until there is a next sibling.
    let mut node = tree.tree.root();
    loop {
        lines.open(node.value());
        if let Some(child) = node.first_child() {
            node = child;
            continue;
        }
        loop {
            lines.close(node.value());
            if let Some(next) = node.next_sibling() {
                node = next;
                break;
            }
            let Some(parent) = node.parent() else {
                return lines.finish();
            };
            node = parent;
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
    fn open(&mut self, node: &Node) {
        match node {
            Node::Text(text) => self.add(text),
            Node::Element(element) => match element.name() {
                "pre" => {
                    self.end_line();
                    self.verbatim += 1;
                }
                "br" => self.end_line(),
                "li" => {
                    self.end_line();
                    self.text.push_str(BULLET);
                }
                "td" | "th" => {
                    if self.cell {
                        self.trim();
                        self.text.push_str(" | ");
                        self.space = false;
                    }
                    self.cell = true;
                }
                name if BLOCKS.contains(&name) => self.end_line(),
                _ => {}
            },
            _ => {}
        }
    }

    fn close(&mut self, node: &Node) {
        let Some(element) = node.as_element() else {
            return;
        };
        if element.name() == "li" && self.text.get(self.start..) == Some(BULLET) {
            self.text.truncate(self.start);
        }
        if BLOCKS.contains(&element.name()) {
            self.end_line();
        }
        if element.name() == "pre" {
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
    use super::*;
    use proptest::prelude::*;

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
