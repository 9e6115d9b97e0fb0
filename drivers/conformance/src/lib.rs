//! Placeholder, replaced within this first series of commits.
