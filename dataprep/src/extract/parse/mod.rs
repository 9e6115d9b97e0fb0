//! Parses a page, within limits.
//!
//! Depth cannot be read off the tags: parsers close some elements by themselves and open others again, so that a few
//! kilobytes of unclosed tags become millions of elements. So limits are looked at while the tree grows, and parsing
//! stops as soon as one is passed; what is built is never deeper than allowed.

mod builder;
mod markup;
mod reference;
mod script;
#[cfg(test)]
mod tests;

use super::tree::Tree;
use builder::Builder;
use html5ever::interface::TreeSink;
use markup::Markup;
use std::borrow::Cow;

/// Size of a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    /// Elements from the root to the deepest one.
    depth: u32,
    /// Elements in all.
    elements: u32,
}

/// Which of two limits a page passed, and the shape of what was read till then.
#[derive(Debug)]
pub(super) enum TooLarge {
    Depth(u32),
    Elements(u32),
}

/// The tree of a page, which has no more than 4 GiB.
///
/// # Errors
/// The limit that it passes.
pub(super) fn parse(page: &str, max_depth: u32, max_elements: u32) -> Result<Tree, TooLarge> {
    let page = with_plain_lines(page);
    let mut markup = Markup::new(&page, Builder::new(page.len()));
    while markup.step() {
        within(markup.builder().shape_so_far(), max_depth, max_elements)?;
    }
    let (tree, shape) = markup.into_builder().finish();
    within(shape, max_depth, max_elements)?;
    Ok(tree)
}

fn within(shape: Shape, max_depth: u32, max_elements: u32) -> Result<(), TooLarge> {
    match shape {
        Shape { elements, .. } if elements > max_elements => Err(TooLarge::Elements(elements)),
        Shape { depth, .. } if depth > max_depth => Err(TooLarge::Depth(depth)),
        _ => Ok(()),
    }
}

/// The page with `\n` where a line ends, however it ended before.
fn with_plain_lines(page: &str) -> Cow<'_, str> {
    let mut returns = memchr::memchr_iter(b'\r', page.as_bytes()).peekable();
    if returns.peek().is_none() {
        return Cow::Borrowed(page);
    }
    let (mut plain, mut copied) = (String::with_capacity(page.len()), 0);
    for at in returns {
        plain.push_str(&page[copied..at]);
        copied = at + 1;
        if page.as_bytes().get(copied) != Some(&b'\n') {
            plain.push('\n');
        }
    }
    plain.push_str(&page[copied..]);
    Cow::Owned(plain)
}
