//! The stages of a preparation, one module a stage.

pub(super) mod dedup;
pub(super) mod documents;
pub(super) mod shards;
pub(super) mod tokens;
pub(super) mod vocabulary;
