//! The fingerprint of a preparation: settings, lists, tokenizer and inputs, by content.

use super::config::PrepConfig;
use crate::error::Result;
use crate::shard::InputsEntry;
use crate::tokenizer::Tokenizer;
use crate::{hash, json};
use serde_json::json;

/// Part of the fingerprint: raised whenever the same input would give other shards than before.
const REVISION: u64 = 6;

/// What a preparation's result depends on besides its inputs.
pub(super) struct Identity<'a> {
    pub config: &'a PrepConfig,
    /// The tokenizer, where it is not to be trained.
    pub tokenizer: Option<Tokenizer>,
    /// SHA-256 of the files that are part of the settings.
    lists: Vec<String>,
}

impl<'a> Identity<'a> {
    pub fn new(config: &'a PrepConfig) -> Result<Self> {
        let lists = config.lists().map(hash::of_file).collect::<Result<_>>()?;
        Ok(Self { config, tokenizer: config.tokenizer.load()?, lists })
    }

    /// Fingerprint of everything that the shards' bytes depend on: contents, not paths.
    pub fn fingerprint(&self, inputs: &InputsEntry) -> String {
        self.of(&json!(inputs))
    }

    /// With the inputs as far as they are known.
    pub fn of(&self, inputs: &serde_json::Value) -> String {
        let mut recipe = self.config.recipe();
        recipe["input"]["paths"] = json!(null);
        recipe["tokenizer"]["path"] = json!(self.tokenizer.as_ref().map(Tokenizer::entry));
        let all = json!({ "revision": REVISION, "recipe": recipe, "lists": self.lists, "inputs": inputs });
        hash::of_bytes(json::canonical(&all).as_bytes())
    }
}
