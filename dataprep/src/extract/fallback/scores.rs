//! The element with the best paragraphs, and the elements beside it that belong to it.

use super::super::density::{Density, weight_of_link};
use super::super::marks;
use super::super::page::{Page, spaced_length};
use super::super::tree::{Attribute, Id, NONE, Tag, Tags, Tree};
use rustc_hash::{FxHashMap, FxHashSet};

/// Elements whose text is scored.
const SCORED: Tags = Tags::of(&[Tag::Section, Tag::H2, Tag::H3, Tag::H4, Tag::H5, Tag::H6, Tag::P, Tag::Td, Tag::Pre]);
/// Elements that are parts of a line.
const PHRASES: Tags = Tags::of(&[
    Tag::Abbr,
    Tag::Audio,
    Tag::B,
    Tag::Bdo,
    Tag::Br,
    Tag::Button,
    Tag::Cite,
    Tag::Code,
    Tag::Data,
    Tag::Datalist,
    Tag::Dfn,
    Tag::Em,
    Tag::Embed,
    Tag::Font,
    Tag::I,
    Tag::Img,
    Tag::Input,
    Tag::Kbd,
    Tag::Label,
    Tag::Mark,
    Tag::Math,
    Tag::Object,
    Tag::Output,
    Tag::Progress,
    Tag::Q,
    Tag::Ruby,
    Tag::Samp,
    Tag::Select,
    Tag::Small,
    Tag::Span,
    Tag::Strong,
    Tag::Sub,
    Tag::Sup,
    Tag::Textarea,
    Tag::Time,
    Tag::Var,
    Tag::Wbr,
]);
/// Elements that are part of a line where all that they have is.
const PERHAPS_PHRASES: Tags = Tags::of(&[Tag::A, Tag::Del, Tag::Ins]);
/// Elements that keep a `div` from being a paragraph.
const BLOCKS: Tags = Tags::of(&[
    Tag::Blockquote,
    Tag::Dl,
    Tag::Div,
    Tag::Img,
    Tag::Ol,
    Tag::P,
    Tag::Pre,
    Tag::Table,
    Tag::Ul,
    Tag::Select,
]);
const UNUSED: Tags = Tags::of(&[Tag::Script, Tag::Style, Tag::Noscript, Tag::Template, Tag::Head]);
const NOT_EMPTY: Tags =
    Tags::of(&[Tag::Div, Tag::Section, Tag::Header, Tag::H1, Tag::H2, Tag::H3, Tag::H4, Tag::H5, Tag::H6]);
/// Elements that stay what they are beside the best one.
const SIBLINGS: Tags = Tags::of(&[Tag::Div, Tag::Article, Tag::Section, Tag::P, Tag::Ol, Tag::Ul]);
/// Elements that are left out of what was found.
const OUT: Tags = Tags::of(&[
    Tag::Object,
    Tag::Embed,
    Tag::Footer,
    Tag::Link,
    Tag::Aside,
    Tag::Iframe,
    Tag::Input,
    Tag::Textarea,
    Tag::Select,
    Tag::Button,
]);
/// Elements that are left out if they do not look like text.
const DOUBTED: Tags = Tags::of(&[Tag::Form, Tag::Fieldset, Tag::Table, Tag::Ul, Tag::Div]);

/// Characters that are enough; with less, rules are given up one by one.
const ENOUGH: usize = 500;
/// Characters of a paragraph that is worth a look.
const SHORT: u32 = 25;
/// Best elements that are compared.
const BEST: usize = 5;

/// Which rules hold.
#[derive(Clone, Copy)]
struct Rules {
    unlikely: bool,
    weights: bool,
    doubts: bool,
}

/// The best part of `page`, which is taken apart, as a new element.
pub(super) fn find(page: &mut Page<'_>, whole: Id) -> Option<Id> {
    prepare(page.tree, whole);
    let rules = [(true, true, true), (false, true, true), (false, false, true), (false, false, false)];
    let mut best = None;
    for (unlikely, weights, doubts) in rules {
        let copy = page.tree.copy(whole);
        let found = attempt(page, copy, Rules { unlikely, weights, doubts })?;
        let length = spaced_length(page.tree, found);
        if length >= ENOUGH {
            return Some(found);
        }
        if best.is_none_or(|(_, longest)| length > longest) {
            best = Some((found, length));
        }
    }
    best.filter(|&(_, length)| length > 0).map(|(found, _)| found)
}

/// Leaves out what is not shown; two lines end a paragraph.
fn prepare(tree: &mut Tree, top: Id) {
    for id in tree.tagged(top, UNUSED) {
        tree.detach(id);
    }
    for br in tree.tagged(top, Tags::of(&[Tag::Br])) {
        if tree.parent(br) != NONE && !tree.is_inside(br, Tags::of(&[Tag::Pre])) {
            break_paragraph(tree, br);
        }
    }
}

fn is_space(tree: &Tree, id: Id) -> bool {
    if tree.is_text(id) { tree.measure(id).chars == 0 } else { tree.tag(id) == Tag::Br }
}

/// The first node from `id` on that is not white space between elements.
fn past_space(tree: &Tree, mut id: Id) -> Id {
    while id != NONE && tree.is_text(id) && tree.measure(id).chars == 0 {
        id = tree.node(id).next;
    }
    id
}

/// Makes a paragraph of what is behind two or more lines' ends.
fn break_paragraph(tree: &mut Tree, br: Id) {
    let mut breaks = false;
    loop {
        let next = past_space(tree, tree.node(br).next);
        if next == NONE || tree.tag(next) != Tag::Br {
            break;
        }
        breaks = true;
        tree.detach(next);
    }
    if !breaks {
        return;
    }
    let paragraph = tree.new_element(Tag::P);
    tree.insert_before(br, paragraph);
    tree.detach(br);
    loop {
        let next = tree.node(paragraph).next;
        if next == NONE || !is_phrase(tree, next) {
            break;
        }
        let then = past_space(tree, tree.node(next).next);
        if tree.tag(next) == Tag::Br && then != NONE && tree.tag(then) == Tag::Br {
            break;
        }
        tree.append(paragraph, next);
    }
    let parent = tree.parent(paragraph);
    if tree.tag(parent) == Tag::P {
        tree.set_tag(parent, Tag::Div);
    }
}

fn is_phrase(tree: &Tree, id: Id) -> bool {
    let alone = |id| tree.is_text(id) || PHRASES.has(tree.tag(id));
    alone(id)
        || (PERHAPS_PHRASES.has(tree.tag(id))
            && tree.below(id).all(|below| alone(below) || PERHAPS_PHRASES.has(tree.tag(below))))
}

fn attempt(page: &mut Page<'_>, top: Id, rules: Rules) -> Option<Id> {
    let elements = walk(page, top, rules);
    let body = page.tree.below(top).find(|&id| page.tree.tag(id) == Tag::Body)?;
    let density = Density::of(page.tree, top);
    let weight = |page: &Page<'_>, id| if rules.weights { marks::weight(page.marks(id)) } else { 0.0 };
    let start = |page: &Page<'_>, id| {
        weight(page, id)
            + match page.tree.tag(id) {
                Tag::Div => 5.0,
                Tag::Pre | Tag::Td | Tag::Blockquote => 3.0,
                Tag::Address | Tag::Ol | Tag::Ul | Tag::Dl | Tag::Dd | Tag::Dt | Tag::Li | Tag::Form => -3.0,
                Tag::H1 | Tag::H2 | Tag::H3 | Tag::H4 | Tag::H5 | Tag::H6 | Tag::Th => -5.0,
                _ => 0.0,
            }
    };
    let (mut scores, mut candidates) = (FxHashMap::default(), Vec::new());
    for id in elements {
        let text = density.get(id).text;
        if page.tree.parent(id) == NONE || text.chars < SHORT {
            continue;
        }
        let worth = f64::from(2 + text.commas + (text.chars / 100).min(3));
        let mut above = page.tree.parent(id);
        for level in 0..BEST {
            if above == NONE || !page.tree.is_element(above) || page.tree.tag(above) == Tag::Html {
                break;
            }
            let score = scores.entry(above).or_insert_with(|| {
                candidates.push(above);
                start(page, above)
            });
            *score += worth / [1.0, 2.0, 6.0, 9.0, 12.0][level];
            above = page.tree.parent(above);
        }
    }
    for id in &candidates {
        if let Some(score) = scores.get_mut(id) {
            *score *= 1.0 - density.get(*id).share();
        }
    }
    candidates.sort_by(|a, b| scores[b].total_cmp(&scores[a]));
    candidates.truncate(BEST);
    let mut best = match candidates.first() {
        Some(&best) if best != body => best,
        _ => {
            let all = page.tree.new_element(Tag::Div);
            page.tree.move_children(body, all);
            page.tree.append(body, all);
            all
        }
    };
    if let Some(&first) = candidates.first().filter(|&&first| first == best) {
        best = widen(page.tree, first, &candidates, &scores);
    }
    let score = scores.get(&best).copied().unwrap_or_else(|| start(page, best));
    let class = |page: &Page<'_>, id| page.tree.attribute(id, Attribute::Class).unwrap_or_default().to_owned();
    let (threshold, own_class) = (f64::max(10.0, score * 0.2), class(page, best));
    let out = page.tree.new_element(Tag::Body);
    let beside: Vec<Id> = page.tree.element_children(page.tree.parent(best)).collect();
    for id in beside {
        let text = density.get(id);
        let bonus = if !own_class.is_empty() && class(page, id) == own_class { score * 0.2 } else { 0.0 };
        let belongs = id == best
            || scores.get(&id).is_some_and(|score| score + bonus >= threshold)
            || (page.tree.tag(id) == Tag::P
                && match text.text.chars {
                    81.. => text.share() < 0.25,
                    1..=80 => text.share() == 0.0 && has_sentence(&page.tree.all_text(id)),
                    _ => false,
                });
        if belongs {
            if !SIBLINGS.has(page.tree.tag(id)) {
                page.tree.set_tag(id, Tag::Div);
            }
            page.tree.append(out, id);
        }
    }
    leave_out(page, out, rules);
    Some(out)
}

fn has_sentence(text: &str) -> bool {
    let text = text.trim();
    text.ends_with('.') || text.contains(". ")
}

/// The element above `best` that several good ones are in, or that has a better score, or nothing else in it.
fn widen(tree: &Tree, mut best: Id, candidates: &[Id], scores: &FxHashMap<Id, f64>) -> Id {
    const ALIKE: usize = 3;
    let score = |id: Id| scores.get(&id).copied().unwrap_or_default();
    let alike: Vec<Id> = candidates.iter().skip(1).copied().filter(|&id| score(id) / score(best) >= 0.75).collect();
    let up =
        |id: Id| Some(tree.parent(id)).filter(|&id| id != NONE && !matches!(tree.tag(id), Tag::Body | Tag::Document));
    if alike.len() >= ALIKE {
        let mut above = up(best);
        while let Some(id) = above {
            if alike.iter().filter(|&&other| tree.is_below(other, id)).count() >= ALIKE {
                best = id;
                break;
            }
            above = up(id);
        }
    }
    let (mut last, mut above) = (score(best), up(best));
    let least = last / 3.0;
    while let Some(id) = above {
        above = up(id);
        let Some(&score) = scores.get(&id) else {
            continue;
        };
        if score < least {
            break;
        }
        if score > last {
            best = id;
            break;
        }
        last = score;
    }
    while let Some(id) = up(best).filter(|&id| tree.element_children(id).nth(1).is_none()) {
        best = id;
    }
    best
}

/// Leaves out what is surely no text, makes paragraphs of lines, and lists the elements to score.
fn walk(page: &mut Page<'_>, top: Id, rules: Rules) -> Vec<Id> {
    let (mut scored, mut byline) = (Vec::new(), false);
    let mut id = page.tree.following(top, top);
    while id != NONE {
        let next_outside = page.tree.following_outside(id, top);
        if page.tree.is_text(id) {
            id = next_outside;
            continue;
        }
        let (tag, marks) = (page.tree.tag(id), page.marks(id));
        let mut out = marks & marks::UNSEEN != 0;
        if !out && !byline && marks & marks::BYLINE != 0 {
            out = (1..100).contains(&page.tree.all_text(id).trim().chars().count());
            byline = out;
        }
        out |= rules.unlikely
            && marks & marks::DISTRUSTED != 0
            && !page.tree.is_inside(id, Tags::of(&[Tag::Table, Tag::Code]));
        out |= NOT_EMPTY.has(tag)
            && page.tree.children(id).all(|child| {
                if page.tree.is_text(child) {
                    page.tree.measure(child).chars == 0
                } else {
                    matches!(page.tree.tag(child), Tag::Br | Tag::Hr)
                }
            });
        if out {
            page.tree.detach(id);
            id = next_outside;
            continue;
        }
        if SCORED.has(tag) {
            scored.push(id);
        }
        if tag == Tag::Div {
            let lines = make_paragraphs(page.tree, id);
            scored.extend(lines);
        }
        id = page.tree.following(id, top);
    }
    scored
}

/// Makes paragraphs of the lines in a `div`; the `div` itself becomes one if it has nothing else.
fn make_paragraphs(tree: &mut Tree, div: Id) -> Option<Id> {
    if !tree.below(div).any(|id| BLOCKS.has(tree.tag(id))) {
        tree.set_tag(div, Tag::P);
        return Some(div);
    }
    let (mut paragraph, mut child) = (NONE, tree.node(div).first);
    while child != NONE {
        let next = tree.node(child).next;
        if !is_phrase(tree, child) {
            paragraph = NONE;
        } else if paragraph != NONE {
            tree.append(paragraph, child);
        } else if !is_space(tree, child) {
            paragraph = tree.new_element(Tag::P);
            tree.insert_before(child, paragraph);
            tree.append(paragraph, child);
        }
        child = next;
    }
    None
}

/// Leaves out of what was found what does not look like text.
fn leave_out(page: &mut Page<'_>, top: Id, rules: Rules) {
    for id in page.tree.tagged(top, OUT) {
        page.tree.detach(id);
    }
    let weight = |page: &Page<'_>, id| if rules.weights { marks::weight(page.marks(id)) } else { 0.0 };
    for id in page.tree.tagged(top, Tags::of(&[Tag::H1, Tag::H2])) {
        if weight(page, id) < 0.0 {
            page.tree.detach(id);
        }
    }
    if rules.doubts {
        let mut in_data = FxHashSet::default();
        for table in page.tree.tagged(top, Tags::of(&[Tag::Table])) {
            if !in_data.contains(&table) && is_data(page.tree, table) {
                in_data.insert(table);
                in_data.extend(page.tree.below(table));
            }
        }
        let mut counts: FxHashMap<Id, Counts> = FxHashMap::default();
        let order: Vec<Id> = page.tree.below(top).collect();
        for id in order.into_iter().rev() {
            let tag = page.tree.tag(id);
            let counted = counts.remove(&id).unwrap_or_default();
            let in_code = |tree: &Tree| tree.is_inside(id, Tags::of(&[Tag::Code]));
            let doubted = DOUBTED.has(tag) && !in_data.contains(&id) && !in_code(page.tree);
            if doubted && counted.is_no_text(page.tree, id, weight(page, id)) {
                page.tree.detach(id);
                continue;
            }
            let own = counted.with(page.tree, id);
            counts.entry(page.tree.parent(id)).or_default().add(own, tag);
        }
    }
    for id in page.tree.tagged(top, Tags::of(&[Tag::P])) {
        let kept = |below: Id| page.tree.measure(below).chars > 0 || matches!(page.tree.tag(below), Tag::Img);
        if !page.tree.below(id).any(kept) {
            page.tree.detach(id);
        }
    }
}

/// Is a table there for its data, and not for where its cells are?
fn is_data(tree: &Tree, table: Id) -> bool {
    if tree.attribute(table, Attribute::Role) == Some("presentation") {
        return false;
    }
    if tree.attribute(table, Attribute::Summary).is_some() {
        return true;
    }
    for id in tree.below(table) {
        match tree.tag(id) {
            Tag::Col | Tag::Colgroup | Tag::Tfoot | Tag::Thead | Tag::Th => return true,
            Tag::Caption if tree.node(id).first != NONE => return true,
            Tag::Table => return false,
            _ => {}
        }
    }
    let rows = tree.tagged(table, Tags::of(&[Tag::Tr]));
    let columns = rows.iter().map(|&row| tree.tagged(row, Tags::of(&[Tag::Td])).len()).max().unwrap_or_default();
    let rows = rows.len();
    rows > 1 && columns > 1 && (rows >= 10 || columns > 4 || rows * columns > 10)
}

/// What is in an element.
#[derive(Clone, Copy, Default)]
struct Counts {
    chars: f64,
    /// Of these in elements that hold text, in lists, in headings and in links.
    in_text: f64,
    in_lists: f64,
    in_headings: f64,
    in_links: f64,
    commas: u32,
    paragraphs: u32,
    images: u32,
    items: u32,
    inputs: u32,
    embedded: u32,
}

/// Elements that hold text.
const TEXTS: Tags = Tags::of(&[
    Tag::Blockquote,
    Tag::Dl,
    Tag::Div,
    Tag::Img,
    Tag::Ol,
    Tag::P,
    Tag::Pre,
    Tag::Table,
    Tag::Ul,
    Tag::Span,
    Tag::Li,
    Tag::Td,
]);

impl Counts {
    /// These of all in an element, with the element.
    fn with(mut self, tree: &Tree, id: Id) -> Self {
        match tree.tag(id) {
            Tag::Text => {
                let text = tree.measure(id);
                self.chars = f64::from(text.chars);
                self.commas = text.commas;
            }
            Tag::P => self.paragraphs += 1,
            Tag::Img => self.images += 1,
            Tag::Li => self.items += 1,
            Tag::Input => self.inputs += 1,
            Tag::Object | Tag::Embed | Tag::Iframe => self.embedded += 1,
            Tag::A => self.in_links = self.chars * weight_of_link(tree, id),
            _ => {}
        }
        self
    }

    /// Adds those of a child.
    fn add(&mut self, child: Self, tag: Tag) {
        self.chars += child.chars;
        self.in_text += if TEXTS.has(tag) { child.chars } else { child.in_text };
        self.in_lists += if matches!(tag, Tag::Ul | Tag::Ol) { child.chars } else { child.in_lists };
        let heading = matches!(tag, Tag::H1 | Tag::H2 | Tag::H3 | Tag::H4 | Tag::H5 | Tag::H6);
        self.in_headings += if heading { child.chars } else { child.in_headings };
        self.in_links += child.in_links;
        self.commas += child.commas;
        self.paragraphs += child.paragraphs;
        self.images += child.images;
        self.items += child.items;
        self.inputs += child.inputs;
        self.embedded += child.embedded;
    }

    fn is_no_text(&self, tree: &Tree, id: Id, weight: f64) -> bool {
        if weight < 0.0 {
            return true;
        }
        if self.commas >= 10 {
            return false;
        }
        let share = |part: f64| if self.chars > 0.0 { part / self.chars } else { 0.0 };
        let is_list = matches!(tree.tag(id), Tag::Ul | Tag::Ol) || share(self.in_lists) > 0.9;
        let in_figure = tree.is_inside(id, Tags::of(&[Tag::Figure]));
        let (links, images, paragraphs) = (share(self.in_links), self.images, f64::from(self.paragraphs));
        let no_text = (images > 1 && paragraphs / f64::from(images) < 0.5 && !in_figure)
            || (!is_list && f64::from(self.items) - 100.0 > paragraphs)
            || f64::from(self.inputs) > (paragraphs / 3.0).floor()
            || (!is_list
                && share(self.in_headings) < 0.9
                && self.chars < 25.0
                && (images == 0 || images > 2)
                && links > 0.0
                && !in_figure)
            || (!is_list && weight < 25.0 && links > 0.2)
            || (weight >= 25.0 && links > 0.5)
            || (self.embedded == 1 && self.chars < 75.0)
            || self.embedded > 1
            || (images == 0 && share(self.in_text) == 0.0);
        if no_text && is_list {
            let simple = tree.element_children(id).all(|child| tree.element_children(child).nth(1).is_none());
            return !(simple && images == self.items);
        }
        no_text
    }
}
