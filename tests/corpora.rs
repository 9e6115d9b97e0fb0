//! Texts for the tests of whole programs, the same in every run.

use std::fmt::Write;

/// Numbers below a limit, the same in every run.
pub fn numbers(mut state: u64) -> impl FnMut(u64) -> u64 {
    move |below| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    }
}

/// Words in which English is recognised; every other one of a sentence is from the first line.
const ENGLISH: &str = "the of and to a in that have it for with as was on be at by this from or \
    time people way water word house morning letter country history garden winter evening teacher question market river \
    village story window kitchen doctor mother father children summer weather mountain station office paper answer island \
    forest music theatre picture language journey captain soldier hunter farmer builder reader writer traveller neighbour";

/// Sentences in English words, each a line.
pub fn sentences(random: &mut impl FnMut(u64) -> u64, lines: usize) -> Vec<String> {
    let words: Vec<&str> = ENGLISH.split_whitespace().collect();
    let (often, seldom) = words.split_at(20);
    let sentence = |_| {
        let pairs = (0..6 + random(6)).map(|_| {
            let (a, b) = (random(often.len() as u64), random(seldom.len() as u64));
            format!("{} {}", often[a as usize], seldom[b as usize])
        });
        pairs.collect::<Vec<_>>().join(" ") + "."
    };
    (0..lines).map(sentence).collect()
}

/// A web page with `paragraphs` as its main text, as a record of a WARC file.
pub fn web_page(url: &str, paragraphs: &[String]) -> String {
    let mut page =
        String::from("<!doctype html><html><head><title>A page</title></head><body><nav>Home</nav><article>");
    paragraphs.iter().for_each(|sentence| write!(page, "<p>{sentence}</p>").unwrap());
    page += "</article></body></html>";
    let http = format!("HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n{page}");
    format!(
        "WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: {url}\r\nContent-Type: application/http; msgtype=response\r\n\
         Content-Length: {}\r\n\r\n{http}\r\n\r\n",
        http.len()
    )
}
