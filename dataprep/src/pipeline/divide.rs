//! Which part of a document is for training and which for validation.

use super::config::PrepConfig;
use crate::shard::Split;
use sha2::{Digest, Sha256};

/// Divides a document between the two sides. Its side depends on its content and the seed only: documents come and go
/// without moving others.
pub(super) fn divide<'d>(document: &'d [u8], config: &PrepConfig) -> [(Split, &'d [u8]); 2] {
    let tail = config.output.validation_tail;
    let cut = if tail > 0.0 {
        head_length(document, tail)
    } else if hash_fraction(document, config.seed) < config.output.validation_fraction {
        0
    } else {
        document.len()
    };
    let (head, tail) = document.split_at(cut);
    [(Split::Train, head), (Split::Validation, tail)]
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
        let held_out =
            (0..1000).filter(|i| divide(format!("document {i}").as_bytes(), &config)[0].1.is_empty()).count();
        assert!((150..250).contains(&held_out), "{held_out} of 1000");
        let other = PrepConfig { seed: 1, ..config.clone() };
        let moved = (0..1000).filter(|i| {
            let text = format!("document {i}");
            divide(text.as_bytes(), &config) != divide(text.as_bytes(), &other)
        });
        assert!(moved.count() > 100);
    }

    #[test]
    fn a_cut_never_goes_through_a_character() {
        assert_eq!(head_length("今今今今".as_bytes(), 0.6), 3);
        assert_eq!(head_length("ab".as_bytes(), 0.5), 1);
    }
}
