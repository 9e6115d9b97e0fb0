//! Inference against numbers and texts that are not our own, and against itself: samplers, chat templates, the engine.

mod chat;
mod engine;
mod samplers;
