//! The train/validation split, document by document.

use super::config::PrepConfig;
use crate::shard::Split;
use sha2::{Digest, Sha256};

/// The largest share of the text that is held out where no document is.
const MOST_HELD_OUT: f64 = 0.1;
/// Bytes of text that are enough to measure a model on, where no document is held out.
const ENOUGH_HELD_OUT: f64 = 131_072.0;
/// Bytes of text below which nothing is held out of documents without being asked for.
const LEAST_TEXT: u64 = 10_240;

/// How documents are divided between training and validation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Division {
    seed: u64,
    fraction: f64,
    tail: f64,
    /// Whether another division may take the place of this one.
    may_change: bool,
    /// Whether this was chosen because no document fell on one of the sides.
    second: bool,
}

impl Division {
    /// The split that the settings ask for.
    pub fn asked(config: &PrepConfig) -> Self {
        let output = &config.output;
        Self {
            seed: config.seed,
            fraction: output.validation_fraction,
            tail: output.validation_tail.unwrap_or_default(),
            may_change: output.validation_tail.is_none(),
            second: false,
        }
    }

    /// What takes the place of this one where it left one side empty of all `text_bytes` bytes: the last part of every
    /// document is held out, `validation_fraction` of it or more, up to a tenth, if that is little. Nothing where
    /// nothing was to be held out, or the text is too short.
    pub fn instead(&self, text_bytes: u64) -> Option<Self> {
        let by_document = self.fraction > 0.0 && self.may_change;
        let share = self.fraction.max(MOST_HELD_OUT.min(ENOUGH_HELD_OUT / text_bytes.max(1) as f64));
        (by_document && text_bytes >= LEAST_TEXT).then_some(Self {
            tail: share,
            may_change: false,
            second: true,
            ..*self
        })
    }

    /// The share of every document that is held out, where that was not asked for.
    pub fn chosen_tail(&self) -> Option<f64> {
        self.second.then_some(self.tail)
    }

    /// Whether something is to be held out.
    pub fn holds_out(&self) -> bool {
        self.fraction > 0.0 || self.tail > 0.0
    }

    /// The name of a stage that depends on the division.
    pub fn stage(&self, first: &'static str, second: &'static str) -> &'static str {
        if self.second { second } else { first }
    }

    /// Divides a document between the two sides. Its side depends on its content and the seed only: documents come and
    /// go without moving others.
    pub fn divide<'d>(&self, document: &'d [u8]) -> [(Split, &'d [u8]); 2] {
        let cut = if self.tail > 0.0 {
            head_length(document, self.tail)
        } else if hash_fraction(document, self.seed) < self.fraction {
            0
        } else {
            document.len()
        };
        let (head, tail) = document.split_at(cut);
        [(Split::Train, head), (Split::Validation, tail)]
    }
}

/// Bytes before the last `tail` of a document, moved back to the start of a character.
fn head_length(document: &[u8], tail: f64) -> usize {
    let mut cut = ((document.len() as f64 * (1.0 - tail)) as usize).min(document.len());
    let wanted = cut;
    while cut > 0 && wanted - cut < 3 && document.get(cut).is_some_and(|byte| byte & 0xc0 == 0x80) {
        cut -= 1;
    }
    cut
}

/// A number in [0, 1) drawn from seed and content.
fn hash_fraction(document: &[u8], seed: u64) -> f64 {
    let digest = Sha256::new().chain_update(seed.to_le_bytes()).chain_update(document).finalize();
    let first: [u8; 8] = digest[..8].try_into().expect("a digest has 32 bytes");
    // The upper 53 bits are exactly what an f64 holds.
    (u64::from_le_bytes(first) >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::config::OutputConfig;

    #[test]
    fn a_document_keeps_its_side_when_others_come_and_go() {
        let config = PrepConfig {
            output: OutputConfig { validation_fraction: 0.2, ..OutputConfig::default() },
            ..PrepConfig::default()
        };
        let division = Division::asked(&config);
        let held_out =
            (0..1000).filter(|i| division.divide(format!("document {i}").as_bytes())[0].1.is_empty()).count();
        assert!((150..250).contains(&held_out), "{held_out} of 1000");
        let other = Division { seed: 1, ..division };
        let moved = (0..1000).filter(|i| {
            let text = format!("document {i}");
            division.divide(text.as_bytes()) != other.divide(text.as_bytes())
        });
        assert!(moved.count() > 100);
    }

    #[test]
    fn a_cut_never_goes_through_a_character() {
        assert_eq!(head_length("今今今今".as_bytes(), 0.6), 3);
        assert_eq!(head_length("ab".as_bytes(), 0.5), 1);
    }

    #[test]
    fn the_last_part_is_held_out_where_no_document_is() {
        let asked = Division::asked(&PrepConfig::default());
        let share = |bytes: u64| asked.instead(bytes).and_then(|division| division.chosen_tail());
        assert_eq!(share(1_115_394), Some(0.1), "as nanoGPT splits tiny Shakespeare");
        assert_eq!((share(10_240), share(10_239)), (Some(0.1), None));
        assert_eq!((share(131_072 * 20), share(1 << 40)), (Some(0.05), Some(0.01)));
        assert_eq!(Division { fraction: 0.0, ..asked }.instead(1 << 20), None);
        assert_eq!(Division { may_change: false, ..asked }.instead(1 << 20), None);
        assert_eq!(Division { fraction: 0.3, ..asked }.instead(1 << 20).unwrap().chosen_tail(), Some(0.3));
    }
}
