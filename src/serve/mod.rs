//! The service: what lifeboat does by itself, and what it tells of it.

pub mod metrics;
