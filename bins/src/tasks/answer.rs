//! Filters of generated text, and its comparison with the target.

use fancy_regex::Regex;
use serde::Deserialize;

/// A filter as a task file has it: without `regex` it keeps the text.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilterSpec {
    /// The name, which stands after the metric's.
    name: String,
    /// A regular expression. Of a match the first group that is not empty counts, or all of it without groups.
    regex: Option<String>,
    /// Which match counts: 0 the first, -1 the last.
    #[serde(default)]
    group_select: i64,
    /// The answer where nothing matches.
    fallback: Option<String>,
}

/// A way from generated text to an answer.
#[derive(Clone, Debug)]
pub struct Filter {
    /// The name, which stands after the metric's.
    pub name: String,
    regex: Option<Regex>,
    select: i64,
    fallback: String,
}

impl Filter {
    /// Compiles the filters of a task; one called `none`, which keeps the text, where there are none.
    pub(super) fn all(specs: &[FilterSpec]) -> Result<Vec<Self>, String> {
        let one = |spec: &FilterSpec| {
            let compile = |regex: &String| Regex::new(regex).map_err(|e| format!("filter {}: {e}", spec.name));
            let regex = spec.regex.as_ref().map(compile).transpose()?;
            let fallback = spec.fallback.clone().unwrap_or_else(|| "[invalid]".into());
            Ok(Self { name: spec.name.clone(), regex, select: spec.group_select, fallback })
        };
        if specs.is_empty() {
            return Ok(vec![Self { name: "none".into(), regex: None, select: 0, fallback: String::new() }]);
        }
        let filters: Vec<Self> = specs.iter().map(one).collect::<Result<_, String>>()?;
        match (1..filters.len()).find(|&i| filters[..i].iter().any(|other| other.name == filters[i].name)) {
            Some(i) => Err(format!("two filters are called {}", filters[i].name)),
            None => Ok(filters),
        }
    }

    /// The answer in a text.
    pub fn apply(&self, text: &str) -> String {
        let Some(regex) = &self.regex else { return text.to_owned() };
        let groups = regex.captures_len() - 1;
        // A pattern that is too hard for a text finds nothing further in it.
        let found: Vec<_> = regex.captures_iter(text).map_while(Result::ok).collect();
        let place = if self.select < 0 { found.len() as i64 + self.select } else { self.select };
        let Some(captures) = usize::try_from(place).ok().and_then(|place| found.get(place)) else {
            return self.fallback.clone();
        };
        let group = |i: usize| captures.get(i).map_or("", |group| group.as_str());
        let answer = match groups {
            0 | 1 => Some(group(groups)),
            _ => (1..=groups).map(group).find(|text| !text.is_empty()),
        };
        answer.map_or_else(|| self.fallback.clone(), |answer| answer.trim().to_owned())
    }
}

/// How an answer and the target are made equal before they are compared.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Match {
    /// Regular expressions whose matches are removed, one after the other.
    ignore: Vec<String>,
    /// Whether case counts for nothing.
    ignore_case: bool,
    /// Whether ASCII punctuation counts for nothing.
    ignore_punctuation: bool,
    #[serde(skip)]
    compiled: Vec<Regex>,
}

impl Match {
    pub(super) fn compile(&mut self) -> Result<(), String> {
        let compile = |regex: &String| Regex::new(regex).map_err(|e| format!("match.ignore {regex:?}: {e}"));
        self.compiled = self.ignore.iter().map(compile).collect::<Result<_, _>>()?;
        Ok(())
    }

    fn plain(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for regex in &self.compiled {
            if let Ok(removed) = regex.try_replacen(&text, 0, "") {
                text = removed.into_owned();
            }
        }
        if self.ignore_case {
            text = text.to_lowercase();
        }
        if self.ignore_punctuation {
            text.retain(|c| !c.is_ascii_punctuation());
        }
        text
    }

    /// Whether an answer is the target.
    pub fn equal(&self, answer: &str, target: &str) -> bool {
        self.plain(answer) == self.plain(target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(regex: &str, group_select: i64) -> Filter {
        let spec = FilterSpec { name: "f".into(), regex: Some(regex.into()), group_select, fallback: None };
        Filter::all(&[spec]).unwrap().remove(0)
    }

    /// Python 3.12's `re.findall`, and the rules of the harness.
    #[test]
    fn answers_are_found_as_the_harness_finds_them() {
        let (strict, last) = (filter(r"#### (\-?[0-9\.\,]+)", 0), filter(r"(-?[$0-9.,]{2,})|(-?[0-9]+)", -1));
        let text = "It is $2.00 = $<<2*2=2>>2.\n#### 120\n#### 7";
        assert_eq!((strict.apply(text), last.apply(text)), ("120".into(), "7".into()));
        assert_eq!((strict.apply("no"), last.apply("no")), ("[invalid]".into(), "[invalid]".into()));
        assert_eq!(last.apply("so 1,20 and $3."), "$3.");
        assert_eq!(filter("b+", 1).apply("abbaba"), "b");
        assert_eq!(filter("b", 5).apply("b"), "[invalid]");
        assert!(
            Filter::all(&[FilterSpec { name: "f".into(), regex: Some("(".into()), group_select: 0, fallback: None }])
                .is_err()
        );
    }

    #[test]
    fn targets_are_compared_without_what_is_ignored() {
        let ignore = [",", "\\$", "(?s).*#### ", "\\.$"].map(String::from).to_vec();
        let mut gsm8k = Match { ignore, ignore_case: true, ..Match::default() };
        gsm8k.compile().unwrap();
        assert!(gsm8k.equal("$1,200.", "He has\n5.\n#### 1200") && gsm8k.equal("a", "A") && !gsm8k.equal("12", "1"));
        let mut plain = Match { ignore_punctuation: true, ..Match::default() };
        plain.compile().unwrap();
        assert!(plain.equal("a.b!", "ab") && !plain.equal("A", "a"));
    }
}
