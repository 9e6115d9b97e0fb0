//! Stop strings, searched in the text of the output.

/// Stop strings of a request, at most.
pub const MAX_STOPS: usize = 64;
/// Bytes of a stop string, at most.
pub const MAX_STOP_BYTES: usize = 1024;

/// What is wrong with the stop strings of a request, if anything.
pub fn problem(stops: &[String]) -> Option<String> {
    match stops.iter().find(|stop| stop.is_empty() || stop.len() > MAX_STOP_BYTES) {
        Some(stop) if stop.is_empty() => {
            Some("\"\": an empty string would end every text at once; leave it out".into())
        }
        Some(stop) => Some(format!("of {} bytes: must have at most {MAX_STOP_BYTES}", stop.len())),
        None if stops.len() > MAX_STOPS => Some(format!("has {} strings: must have at most {MAX_STOPS}", stops.len())),
        None => None,
    }
}

/// Searches a text that arrives in pieces for stop strings.
///
/// After each piece, the stop string that starts first cuts the text. Until then the longest tail that may be the start
/// of a stop string is held back.
#[derive(Clone, Debug, Default)]
pub struct StopSearch {
    stops: Vec<String>,
    held: String,
    stopped: bool,
}

impl StopSearch {
    /// A search for `stops`, none of them empty.
    pub fn new(stops: &[String]) -> Self {
        Self { stops: stops.iter().filter(|stop| !stop.is_empty()).cloned().collect(), ..Self::default() }
    }

    /// Whether a stop string was found.
    pub fn stopped(&self) -> bool {
        self.stopped
    }

    /// Takes a piece of text, and gives the text that can be shown. Nothing comes after a stop string.
    pub fn push(&mut self, piece: &str) -> String {
        if self.stopped || self.stops.is_empty() {
            return if self.stopped { String::new() } else { piece.to_owned() };
        }
        self.held.push_str(piece);
        if let Some(start) = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min() {
            self.stopped = true;
            self.held.truncate(start);
            return std::mem::take(&mut self.held);
        }
        let keep = self.held.len() - self.tail();
        let rest = self.held.split_off(keep);
        std::mem::replace(&mut self.held, rest)
    }

    /// The text that was held back, at the end of the output.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Bytes of the longest tail that is the start of a stop string.
    fn tail(&self) -> usize {
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        let from = self.held.len().saturating_sub(longest);
        let starts = self.held.char_indices().map(|(i, _)| i).filter(|&i| i >= from);
        let mut tails = starts.map(|i| &self.held[i..]);
        tails.find(|tail| self.stops.iter().any(|stop| stop.starts_with(tail))).map_or(0, str::len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fathom_core::rng;

    fn run(stops: &[&str], pieces: &[&str]) -> (Vec<String>, String, bool) {
        let stops: Vec<String> = stops.iter().map(|&s| s.into()).collect();
        let mut search = StopSearch::new(&stops);
        let shown: Vec<String> = pieces.iter().map(|piece| search.push(piece)).collect();
        let rest = search.finish();
        (shown, rest, search.stopped())
    }

    #[test]
    fn a_stop_string_that_spans_pieces_is_found_and_cut() {
        let (shown, rest, stopped) = run(&["\n\nUser:"], &["Yes.", "\n", "\nUs", "er: more", "x"]);
        assert_eq!((shown.concat().as_str(), rest.as_str(), stopped), ("Yes.", "", true));
        assert_eq!(shown[1], "", "the start of a stop string is held back");
    }

    #[test]
    fn the_stop_string_that_starts_first_cuts() {
        assert_eq!(run(&["cd", "bcde"], &["abcdef"]).0.concat(), "a");
    }

    #[test]
    fn a_stop_string_that_never_ends_comes_out_at_the_end() {
        let (shown, rest, stopped) = run(&["aaaaaaab"], &["x", "aaa", "aaa"]);
        assert_eq!((shown.concat().as_str(), rest.as_str(), stopped), ("x", "aaaaaa", false));
        let (shown, ..) = run(&["aab"], &["aaaa"]);
        assert_eq!(shown, ["aa"], "no more is held back than can become a stop string");
    }

    #[test]
    fn characters_are_not_cut() {
        let (shown, rest, stopped) = run(&["🙃b", "é!"], &["a🙃", "é", "🙃", "b"]);
        assert_eq!((shown.concat().as_str(), rest.as_str(), stopped), ("a🙃é", "", true));
    }

    /// Random texts over a small alphabet, beside a search of the whole text after every piece.
    #[test]
    fn it_equals_a_search_of_the_whole_text() {
        let mut index = 0;
        let mut below = |n: u64| {
            index += 1;
            rng::bits(7, rng::stream("stop strings"), index) % n
        };
        let alphabet = ["a", "b", "é", "🙃"];
        let word = |below: &mut dyn FnMut(u64) -> u64, least: u64, most: u64| -> String {
            let n = least + below(most - least + 1);
            (0..n).map(|_| alphabet[below(4) as usize]).collect()
        };
        let mut found = 0;
        for _ in 0..3000 {
            let stops: Vec<String> = (0..1 + below(3)).map(|_| word(&mut below, 1, 5)).collect();
            let pieces: Vec<String> = (0..below(12)).map(|_| word(&mut below, 0, 3)).collect();
            let (mut all, mut want, mut stopped) = (String::new(), None, false);
            for piece in &pieces {
                all.push_str(piece);
                if let Some(start) = stops.iter().filter_map(|stop| all.find(stop.as_str())).min() {
                    want = Some(all[..start].to_owned());
                    stopped = true;
                    break;
                }
            }
            let mut search = StopSearch::new(&stops);
            let mut got = String::new();
            for piece in &pieces {
                got.push_str(&search.push(piece));
                assert!(all.starts_with(&got), "what is shown is never taken back");
            }
            got.push_str(&search.finish());
            assert_eq!((&got, search.stopped()), (want.as_ref().unwrap_or(&all), stopped), "{stops:?} {pieces:?}");
            found += usize::from(stopped);
        }
        assert!((500..2900).contains(&found), "{found}");
    }

    #[test]
    fn nonsense_is_refused() {
        let refused = |stops: Vec<String>| problem(&stops).unwrap();
        assert!(refused(vec![String::new()]).contains("empty string"));
        assert!(refused(vec!["a".repeat(2000)]).contains("2000 bytes"));
        assert!(refused(vec!["a".into(); 65]).contains("65 strings"));
        assert_eq!(problem(&["\n".into()]), None);
    }
}
