//! The names of elements, as far as they matter.

use html5ever::{LocalName, local_name};

macro_rules! tags {
    ($($tag:ident $name:tt)*) => {
        /// What a node is: the name of an element, or something else.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub(in crate::extract) enum Tag {
            /// The root, and whatever is neither an element nor text.
            Document,
            Text,
            /// An element with a name that matters to nobody.
            Other,
            /// An element whose content was used already.
            Done,
            $($tag,)*
        }

        impl Tag {
            /// The tag of an element with this name.
            pub(in crate::extract) fn named(name: &LocalName) -> Self {
                match *name {
                    $(local_name!($name) => Self::$tag,)*
                    _ => Self::Other,
                }
            }
        }
    };
}

tags! {
    A "a" Abbr "abbr" Acronym "acronym" Address "address" Applet "applet" Area "area" Article "article" Aside "aside"
    Audio "audio" B "b" Base "base" Bdi "bdi" Bdo "bdo" Big "big" Blockquote "blockquote" Body "body" Br "br"
    Button "button" Canvas "canvas" Caption "caption" Center "center" Cite "cite" Code "code" Col "col"
    Colgroup "colgroup" Data "data" Datalist "datalist" Dd "dd" Del "del" Details "details" Dfn "dfn" Dialog "dialog"
    Div "div" Dl "dl" Dt "dt" Em "em" Embed "embed" Fieldset "fieldset" Figcaption "figcaption" Figure "figure"
    Font "font" Footer "footer" Form "form" Frame "frame" Frameset "frameset" H1 "h1" H2 "h2" H3 "h3" H4 "h4" H5 "h5"
    H6 "h6" Head "head" Header "header" Hgroup "hgroup" Hr "hr" Html "html" I "i" Iframe "iframe" Img "img"
    Input "input" Ins "ins" Kbd "kbd" Label "label" Legend "legend" Li "li" Link "link" Main "main" Map "map"
    Mark "mark" Marquee "marquee" Math "math" Menu "menu" Meta "meta" Nav "nav" Noscript "noscript" Object "object"
    Ol "ol" Optgroup "optgroup" Option "option" Output "output" P "p" Param "param" Picture "picture" Pre "pre"
    Progress "progress" Q "q" Rp "rp" Rt "rt" Rtc "rtc" Ruby "ruby" S "s" Samp "samp" Script "script"
    Section "section" Select "select" Small "small" Source "source" Span "span" Strike "strike" Strong "strong"
    Style "style" Sub "sub" Summary "summary" Sup "sup" Svg "svg" Table "table" Tbody "tbody" Td "td"
    Template "template" Textarea "textarea" Tfoot "tfoot" Th "th" Thead "thead" Time "time" Title "title" Tr "tr"
    Track "track" Tt "tt" U "u" Ul "ul" Use "use" Var "var" Video "video" Wbr "wbr"
}

/// A set of tags.
#[derive(Clone, Copy)]
pub(in crate::extract) struct Tags([u64; 3]);

impl Tags {
    pub(in crate::extract) const fn of(tags: &[Tag]) -> Self {
        let (mut bits, mut i) = ([0; 3], 0);
        while i < tags.len() {
            bits[tags[i] as usize / 64] |= 1 << (tags[i] as usize % 64);
            i += 1;
        }
        Self(bits)
    }

    pub(in crate::extract) const fn with(self, tag: Tag) -> Self {
        let mut bits = self.0;
        bits[tag as usize / 64] |= 1 << (tag as usize % 64);
        Self(bits)
    }

    /// These and others.
    pub(in crate::extract) const fn and(self, others: Self) -> Self {
        let ([a, b, c], [d, e, f]) = (self.0, others.0);
        Self([a | d, b | e, c | f])
    }

    pub(in crate::extract) const fn has(self, tag: Tag) -> bool {
        self.0[tag as usize / 64] >> (tag as usize % 64) & 1 != 0
    }
}

/// Elements that have no content.
pub(in crate::extract) const VOID: Tags = Tags::of(&[
    Tag::Area,
    Tag::Base,
    Tag::Br,
    Tag::Col,
    Tag::Embed,
    Tag::Hr,
    Tag::Img,
    Tag::Input,
    Tag::Link,
    Tag::Meta,
    Tag::Param,
    Tag::Source,
    Tag::Track,
    Tag::Wbr,
]);
