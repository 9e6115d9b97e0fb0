//! Kinds of elements, by what becomes of them in main text.

use super::super::tree::{Tag, Tags};

pub(super) const LISTS: Tags = Tags::of(&[Tag::Ul, Tag::Ol, Tag::Dl]);
pub(super) const ITEMS: Tags = Tags::of(&[Tag::Li, Tag::Dt, Tag::Dd]);
pub(super) const QUOTES: Tags = Tags::of(&[Tag::Blockquote, Tag::Pre, Tag::Q]);
pub(super) const HEADINGS: Tags = Tags::of(&[Tag::H1, Tag::H2, Tag::H3, Tag::H4, Tag::H5, Tag::H6, Tag::Summary]);
pub(super) const BREAKS: Tags = Tags::of(&[Tag::Br, Tag::Hr]);
pub(super) const CELLS: Tags = Tags::of(&[Tag::Td, Tag::Th]);
/// Formatted words that main text may have.
pub(super) const WANTED_FORMATS: Tags = Tags::of(&[
    Tag::Em,
    Tag::I,
    Tag::B,
    Tag::Strong,
    Tag::U,
    Tag::Kbd,
    Tag::Samp,
    Tag::Tt,
    Tag::Var,
    Tag::Sub,
    Tag::Sup,
]);
pub(super) const FORMATS: Tags = WANTED_FORMATS.with(Tag::Mark);
/// Elements that main text consists of.
pub(super) const WANTED: Tags =
    Tags::of(&[Tag::Code, Tag::Del, Tag::S, Tag::Strike, Tag::P, Tag::Details, Tag::Table, Tag::Tr])
        .and(QUOTES)
        .and(HEADINGS)
        .and(WANTED_FORMATS)
        .and(BREAKS)
        .and(LISTS)
        .and(CELLS);
/// What may hold formatted words as they are; elsewhere these become a paragraph.
pub(super) const HOLDS_FORMATS: Tags = CELLS.and(HEADINGS).and(FORMATS).and(ITEMS).and(QUOTES).with(Tag::P);
/// Elements in which links matter.
pub(super) const HOLDS_LINKS: Tags = LISTS.and(Tags::of(&[Tag::Div, Tag::P, Tag::Table]));
/// Elements that are looked for where no part of the page promises main text.
pub(super) const ANYWHERE: Tags = QUOTES.and(Tags::of(&[Tag::Code, Tag::P, Tag::Table, Tag::Div]));
