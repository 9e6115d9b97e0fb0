//! Paragraphs of prose, wherever they are: told by length, links and how many of their words are common ones.

use super::super::marks;
use super::super::page::{Page, trim};
use super::super::tree::{Id, NONE, Tag, Tags, Tree};
use super::common::is_common;

/// Elements that begin and end a paragraph.
const PARAGRAPHS: Tags = Tags::of(&[
    Tag::Body,
    Tag::Blockquote,
    Tag::Caption,
    Tag::Center,
    Tag::Col,
    Tag::Colgroup,
    Tag::Dd,
    Tag::Div,
    Tag::Dl,
    Tag::Dt,
    Tag::Fieldset,
    Tag::Legend,
    Tag::Optgroup,
    Tag::Option,
    Tag::P,
    Tag::Pre,
    Tag::Table,
    Tag::Td,
    Tag::Tfoot,
    Tag::Th,
    Tag::Thead,
    Tag::Tr,
    Tag::Ul,
    Tag::Li,
    Tag::H1,
    Tag::H2,
    Tag::H3,
    Tag::H4,
    Tag::H5,
    Tag::H6,
]);
const HEADINGS: Tags = Tags::of(&[Tag::H1, Tag::H2, Tag::H3, Tag::H4, Tag::H5, Tag::H6]);
/// Elements that are passed over.
const OUT: Tags = Tags::of(&[
    Tag::Aside,
    Tag::Footer,
    Tag::Script,
    Tag::Style,
    Tag::Svg,
    Tag::Template,
    Tag::Head,
    Tag::Noscript,
    Tag::Input,
    Tag::Button,
    Tag::Select,
    Tag::Textarea,
    Tag::Embed,
    Tag::Object,
    Tag::Applet,
    Tag::Iframe,
    Tag::Param,
]);

/// Characters of a paragraph that is too short to tell, and of one that is surely long enough.
const SHORT: u32 = 50;
const LONG: u32 = 150;
/// Shares of common words in what may be prose, and in what is.
const SOME: f64 = 0.1;
const MANY: f64 = 0.2;
/// Share of a paragraph that may be in links.
const LINKS: f64 = 0.25;
/// Characters between a heading and the text that it belongs to.
const NEAR: u32 = 150;

#[derive(Clone, Copy, PartialEq, Debug)]
enum Class {
    Good,
    NearGood,
    Short,
    Bad,
}

#[derive(Default)]
struct Paragraph {
    text: String,
    chars: u32,
    in_links: u32,
    is_heading: bool,
}

/// An element with the paragraphs of prose below `whole`, if there are any.
pub(super) fn find(page: &mut Page<'_>, whole: Id) -> Option<Id> {
    let paragraphs = paragraphs(page, whole);
    let classes = classes(&paragraphs);
    let top = page.tree.new_element(Tag::Body);
    for (paragraph, _) in paragraphs.iter().zip(classes).filter(|(_, class)| *class == Class::Good) {
        let new = page.tree.new_element(Tag::P);
        let text = page.tree.new_text(&paragraph.text);
        page.tree.append(new, text);
        page.tree.append(top, new);
    }
    (page.tree.node(top).first != NONE).then_some(top)
}

fn paragraphs(page: &Page<'_>, top: Id) -> Vec<Paragraph> {
    let tree = &*page.tree;
    let mut done = Vec::new();
    let mut now = Paragraph::default();
    let mut finish = |now: &mut Paragraph| {
        let finished = std::mem::take(now);
        let text = trim(&finished.text).into_owned();
        if !text.is_empty() {
            done.push(Paragraph { chars: text.chars().count() as u32, text, ..finished });
        }
    };
    // Levels of links and of headings that are open, and whether a line has just ended.
    let (mut links, mut headings, mut line) = (0_u32, 0_u32, false);
    let mut id = top;
    loop {
        let tag = tree.tag(id);
        let mut inside = tree.node(id).first;
        if tag == Tag::Text {
            if tree.measure(id).chars > 0 {
                now.text.push_str(tree.text_of(id));
                now.in_links += if links > 0 { tree.measure(id).chars } else { 0 };
                now.is_heading |= headings > 0;
                line = false;
            } else if !tree.text_of(id).is_empty() {
                now.text.push(' ');
            }
        } else if is_out(page, tree, id) {
            inside = NONE;
        } else {
            if PARAGRAPHS.has(tag) {
                finish(&mut now);
            } else if tag == Tag::Br {
                if line {
                    finish(&mut now);
                }
                now.text.push(' ');
                line = !line;
            }
            if tag == Tag::A {
                links += 1;
            }
            if HEADINGS.has(tag) {
                headings += 1;
            }
        }
        if inside != NONE {
            id = inside;
            continue;
        }
        loop {
            let tag = tree.tag(id);
            if tag != Tag::Text && !is_out(page, tree, id) {
                if PARAGRAPHS.has(tag) {
                    finish(&mut now);
                }
                links -= u32::from(tag == Tag::A);
                headings -= u32::from(HEADINGS.has(tag));
            }
            if id == top {
                finish(&mut now);
                return done;
            }
            if let Some(next) = tree.next(id) {
                id = next;
                break;
            }
            id = tree.parent(id);
        }
    }
}

fn is_out(page: &Page<'_>, tree: &Tree, id: Id) -> bool {
    let marks = page.marks(id);
    OUT.has(tree.tag(id)) || marks & marks::CONSENT != 0 || (tree.tag(id) == Tag::Div && marks & marks::FOOTER != 0)
}

/// What each paragraph is, by itself and then by its neighbours.
fn classes(paragraphs: &[Paragraph]) -> Vec<Class> {
    let first: Vec<Class> = paragraphs.iter().map(class).collect();
    let mut classes = first.clone();
    let near = |classes: &[Class], i: usize| {
        let mut distance = 0;
        for (paragraph, class) in paragraphs.iter().zip(classes).skip(i + 1) {
            if distance > NEAR {
                return false;
            }
            if *class == Class::Good {
                return true;
            }
            distance += paragraph.chars;
        }
        false
    };
    for i in 0..classes.len() {
        if paragraphs[i].is_heading && classes[i] == Class::Short && near(&first, i) {
            classes[i] = Class::NearGood;
        }
    }
    // The nearest paragraph that is surely good or bad on either side, and the nearest that is not short.
    let sure = |class| matches!(class, Class::Good | Class::Bad);
    let nearest = |classes: &[Class], backwards: bool, counts: &dyn Fn(Class) -> bool| {
        let (mut last, mut nearest) = (Class::Bad, vec![Class::Bad; classes.len()]);
        let mut step = |i: usize| {
            nearest[i] = last;
            if counts(classes[i]) {
                last = classes[i];
            }
        };
        if backwards {
            (0..classes.len()).rev().for_each(&mut step)
        } else {
            (0..classes.len()).for_each(&mut step)
        }
        nearest
    };
    let not_short = |class| class != Class::Short;
    let (before, after) = (nearest(&classes, false, &sure), nearest(&classes, true, &sure));
    let (close_before, close_after) = (nearest(&classes, false, &not_short), nearest(&classes, true, &not_short));
    for i in 0..classes.len() {
        if classes[i] == Class::Short {
            let leans = |sure, close| sure == Class::Bad && close == Class::NearGood;
            classes[i] = match (before[i], after[i]) {
                (Class::Good, Class::Good) => Class::Good,
                (Class::Bad, Class::Bad) => Class::Bad,
                (before, after) if leans(before, close_before[i]) || leans(after, close_after[i]) => Class::Good,
                _ => Class::Bad,
            };
        }
    }
    let after = nearest(&classes, true, &sure);
    let mut before = Class::Bad;
    for i in 0..classes.len() {
        if classes[i] == Class::NearGood {
            let between_bad = before == Class::Bad && after[i] == Class::Bad;
            classes[i] = if between_bad { Class::Bad } else { Class::Good };
        }
        before = classes[i];
    }
    for i in 0..classes.len() {
        let rejected = classes[i] == Class::Bad && first[i] != Class::Bad;
        if paragraphs[i].is_heading && rejected && near(&classes, i) {
            classes[i] = Class::Good;
        }
    }
    classes
}

fn class(paragraph: &Paragraph) -> Class {
    let Paragraph { text, chars, in_links, .. } = paragraph;
    if f64::from(*in_links) > f64::from(*chars) * LINKS || text.contains('©') {
        return Class::Bad;
    }
    if *chars < SHORT {
        return if *in_links > 0 { Class::Bad } else { Class::Short };
    }
    let (mut words, mut stop) = (0_u32, 0_u32);
    for word in text.split_whitespace() {
        words += 1;
        stop += u32::from(is_common(&word.to_lowercase()));
    }
    let share = f64::from(stop) / f64::from(words.max(1));
    match share {
        _ if share >= MANY && *chars > LONG => Class::Good,
        _ if share >= SOME => Class::NearGood,
        _ => Class::Bad,
    }
}
