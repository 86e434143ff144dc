//! A drill: everything is restored into a lab and asked whether it is what was backed up.

pub mod by_hand;
mod scene;

pub use self::scene::{Cast, Scene};
