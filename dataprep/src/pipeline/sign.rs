//! Keys and signature of a document for the comparison with others: of its address, its text, and its word n-grams.

use super::work::Draft;
use crate::dedup::{DedupConfig, KeyWriter, MinHashScratch, MinHasher, SignatureWriter};
use crate::document::Document;
use crate::error::Result;

/// Suffixes of the files with keys of addresses, keys of texts, and signatures.
pub(super) const URLS: &str = "urls";

pub(super) const TEXTS: &str = "texts";

pub(super) const BANDS: &str = "bands";

/// What is computed of each document that is kept.
pub(super) struct Signer {
    config: DedupConfig,
    hasher: Option<MinHasher>,
}

impl Signer {
    /// `None` when nothing is to be compared.
    pub fn new(config: &DedupConfig) -> Result<Option<Self>> {
        if !config.is_on() {
            return Ok(None);
        }
        let hasher = config.near.then(|| MinHasher::new(&config.minhash)).transpose()?;
        Ok(Some(Self { config: config.clone(), hasher }))
    }

    /// The bands of a text's signature; none where signatures are off, or the text too short.
    pub fn bands(&self, text: &str, scratch: &mut MinHashScratch) -> Vec<u64> {
        let mut bands = Vec::new();
        if let Some(hasher) = &self.hasher {
            hasher.bands(text, scratch, &mut bands);
        }
        bands
    }

    /// For the documents of one task.
    pub fn writer(&self) -> SignedWriter {
        SignedWriter {
            urls: self.config.urls.then(KeyWriter::default),
            texts: self.config.exact.then(KeyWriter::default),
            bands: self.config.near.then(|| SignatureWriter::new(&self.config.minhash)),
        }
    }
}

/// Keys and signatures of one task's documents.
pub(super) struct SignedWriter {
    urls: Option<KeyWriter>,
    texts: Option<KeyWriter>,
    bands: Option<SignatureWriter>,
}

impl SignedWriter {
    /// Adds a document.
    pub fn push(&mut self, number: u64, document: &Document, bands: &[u64]) {
        if let (Some(urls), Some(url)) = (&mut self.urls, &document.url) {
            urls.push_url(number, url);
        }
        if let Some(texts) = &mut self.texts {
            texts.push_text(number, &document.text);
        }
        if let Some(signatures) = &mut self.bands {
            signatures.push(number, bands, document.text.len() as u64);
        }
    }

    /// Writes the keys and signatures beside the task's other files.
    pub fn publish(self, draft: &Draft<'_>) -> Result<()> {
        if let Some(urls) = self.urls {
            urls.publish(draft.target(&draft.path(URLS)))?;
        }
        if let Some(texts) = self.texts {
            texts.publish(draft.target(&draft.path(TEXTS)))?;
        }
        if let Some(bands) = self.bands {
            bands.publish(draft.target(&draft.path(BANDS)))?;
        }
        Ok(())
    }
}
