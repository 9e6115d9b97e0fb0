//! The URL filter, as datatrove's `url_filter.py` judges addresses.

use super::config::{Limit, UrlConfig};
use super::scores::Scores;
use crate::document::Dropped;
use crate::error::{Error, Result};
use aho_corasick::AhoCorasick;
use rustc_hash::FxHashSet;
use std::collections::HashSet;
use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use xxhash_rust::xxh3::xxh3_64;

/// The lists, ready to be looked up.
pub(crate) struct Url {
    domains: Hashed,
    urls: Hashed,
    words: FxHashSet<String>,
    soft_words: FxHashSet<String>,
    subwords: Option<AhoCorasick>,
    max_soft_words: Limit<u64>,
}

impl Url {
    /// Reads the lists.
    ///
    /// # Errors
    /// [`Error::Io`] when one cannot be read, [`Error::Config`] when the subwords are too many to search for.
    pub fn new(config: &UrlConfig) -> Result<Self> {
        let subwords: Vec<String> = read_words(&config.subwords)?.into_iter().collect();
        let automaton = |words: &[String]| {
            AhoCorasick::new(words)
                .map_err(|e| Error::Config { field: "filter.url.subwords", what: format!("{e}: shorten the list") })
        };
        Ok(Self {
            domains: Hashed::read(&config.domains)?,
            urls: Hashed::read(&config.urls)?,
            words: read_words(&config.words)?,
            soft_words: read_words(&config.soft_words)?,
            subwords: if subwords.is_empty() { None } else { Some(automaton(&subwords)?) },
            max_soft_words: config.max_soft_words,
        })
    }

    /// Holds an address against the lists, in datatrove's order.
    pub fn check(&self, url: &str, scores: &mut Scores) -> Result<(), Dropped> {
        let listed = |rule, found: bool| if found { Err(Dropped { rule, value: 1.0, threshold: 0.0 }) } else { Ok(()) };
        if !self.domains.is_empty() {
            let host = host(url).to_lowercase();
            listed("url.domains", self.domains.contains(registered_domain(&host)) || self.domains.contains(&host))?;
        }
        if !self.urls.is_empty() {
            let bare = url.split_once("://").map_or(url, |(_, rest)| rest);
            listed("url.urls", self.urls.contains(url) || self.urls.contains(bare))?;
        }
        let words = || url.split(|c: char| !c.is_ascii_alphanumeric());
        listed("url.words", !self.words.is_empty() && words().any(|word| self.words.contains(word)))?;
        if let Limit::At(threshold) = self.max_soft_words
            && !self.soft_words.is_empty()
        {
            let found: HashSet<&str> = words().filter(|word| self.soft_words.contains(*word)).collect();
            let value = scores.note("url.max_soft_words", found.len() as f64);
            if found.len() as u64 >= threshold {
                return Err(Dropped { rule: "url.max_soft_words", value, threshold: threshold as f64 });
            }
        }
        match &self.subwords {
            Some(subwords) => listed("url.subwords", subwords.is_match(&normalise(url))),
            None => Ok(()),
        }
    }
}

/// A set of strings by 64 bits of XXH3, in 8 bytes each: published lists hold millions of domains. That a string
/// outside a list of ten million is found in it has a chance of 5e-13.
struct Hashed(Vec<u64>);

impl Hashed {
    fn read(paths: &[PathBuf]) -> Result<Self> {
        let mut hashes = Vec::new();
        read_lines(paths, |line| hashes.push(xxh3_64(line.as_bytes())))?;
        hashes.sort_unstable();
        hashes.dedup();
        Ok(Self(hashes))
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn contains(&self, text: &str) -> bool {
        !text.is_empty() && self.0.binary_search(&xxh3_64(text.as_bytes())).is_ok()
    }
}

/// The entries of lists as words in an address are compared.
fn read_words(paths: &[PathBuf]) -> Result<FxHashSet<String>> {
    let mut words = FxHashSet::default();
    read_lines(paths, |line| {
        let word = normalise(line);
        if !word.is_empty() {
            words.insert(word);
        }
    })?;
    Ok(words)
}

fn read_lines(paths: &[PathBuf], mut each: impl FnMut(&str)) -> Result<()> {
    for path in paths {
        let bytes = fs::read(path).map_err(Error::io("read", path))?;
        let text = String::from_utf8_lossy(&bytes);
        text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).for_each(&mut each);
    }
    Ok(())
}

/// ASCII letters and digits alone, in lower case.
fn normalise(text: &str) -> String {
    text.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

/// The host of an address with or without a scheme, without user, port and final dot.
fn host(url: &str) -> &str {
    let rest = match url.split_once("//") {
        Some((scheme, rest)) if scheme.is_empty() || scheme.ends_with(':') => rest,
        _ => url,
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let host = if host.starts_with('[') {
        host.split_inclusive(']').next().unwrap_or_default()
    } else {
        host.split(':').next().unwrap_or_default()
    };
    host.trim_end_matches('.')
}

/// The part of a host that someone registered, by the ICANN section of the Public Suffix List; empty for an IP address
/// or a bare or unknown suffix. Suffixes of the private section (`github.io`) are domains like others.
fn registered_domain(host: &str) -> &str {
    if host.parse::<Ipv4Addr>().is_ok() || host.starts_with('[') {
        return "";
    }
    let mut at = host;
    loop {
        let Some(suffix) = psl::suffix(at.as_bytes()) else { return "" };
        let Some(section) = suffix.typ() else { return "" };
        if section == psl::Type::Icann {
            let length = suffix.as_bytes().len();
            let Some(before) = host.get(..host.len() - length).and_then(|before| before.strip_suffix('.')) else {
                return "";
            };
            let label = before.rsplit('.').next().unwrap_or_default();
            return host.get(before.len() - label.len()..).unwrap_or_default();
        }
        // The suffix without its first label lies in another section.
        let private = std::str::from_utf8(suffix.as_bytes()).unwrap_or_default();
        let Some((_, parent)) = private.split_once('.') else { return "" };
        at = host.get(host.len() - parent.len()..).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::io::Write;
    use std::path::Path;

    #[test]
    fn hosts_and_domains() {
        // `tldextract.TLDExtract()(url)`: fqdn and registered domain.
        let cases = [
            ("https://user:pw@www.example.co.uk:8080/x?y#z", "www.example.co.uk", "example.co.uk"),
            ("http://example.com./", "example.com", "example.com"),
            ("//blog.someone.github.io", "blog.someone.github.io", "github.io"),
            ("a.b.c.com", "a.b.c.com", "c.com"),
            ("http://10.0.0.1/x", "10.0.0.1", ""),
            ("http://[::1]:80/", "[::1]", ""),
            ("http://co.uk/", "co.uk", ""),
            ("http://localhost/", "localhost", ""),
            ("", "", ""),
        ];
        for (url, name, domain) in cases {
            assert_eq!((host(url), registered_domain(host(url))), (name, domain), "{url}");
        }
    }

    fn list(folder: &Path, name: &str, lines: &str) -> Vec<PathBuf> {
        let path = folder.join(name);
        fs::File::create(&path).unwrap().write_all(lines.as_bytes()).unwrap();
        vec![path]
    }

    proptest::proptest! {
        #[test]
        fn any_address_has_a_host(url in "(https?:)?(//)?([a-zé@:.]{0,12}|[a-z]{1,3}[.])(co[.]uk|com|github[.]io|)[.]?[/?#]?.{0,4}") {
            let host = host(&url);
            proptest::prop_assert!(url.contains(host) && host.ends_with(registered_domain(host)));
        }
    }

    #[test]
    fn each_list_is_a_rule() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        let config = UrlConfig {
            domains: list(at, "domains", "# comment\nbad.com\nsub.fine.com\n\n"),
            urls: list(at, "urls", "fine.com/bad/page\nhttps://fine.com/other\n"),
            words: list(at, "words", "hard-word\n"),
            soft_words: list(at, "soft", "soft\nmild\n"),
            subwords: list(at, "sub", "in side\n"),
            ..UrlConfig::default()
        };
        let url = Url::new(&config).unwrap();
        let rule = |address| url.check(address, &mut Scores(&mut BTreeMap::new())).err().map(|dropped| dropped.rule);
        assert_eq!(rule("http://www.BAD.com/x"), Some("url.domains"));
        assert_eq!(rule("http://sub.fine.com/"), Some("url.domains"));
        assert_eq!(rule("http://other.fine.com/"), None);
        assert_eq!(rule("http://fine.com/bad/page"), Some("url.urls"));
        assert_eq!(rule("https://fine.com/other"), Some("url.urls"));
        assert_eq!(rule("http://fine.com/a-hardword-b"), Some("url.words"));
        assert_eq!(rule("http://fine.com/soft/soft"), None);
        assert_eq!(rule("http://fine.com/soft/mild"), Some("url.max_soft_words"));
        assert_eq!(rule("http://fine.com/xIn-Sidex"), Some("url.subwords"));
        let missing = UrlConfig { words: vec![at.join("none")], ..UrlConfig::default() };
        assert!(matches!(Url::new(&missing), Err(Error::Io { .. })));
    }
}
