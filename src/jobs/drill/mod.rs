//! A drill: everything is restored into a lab and asked whether it is what was backed up.

mod answers;
mod objects;
mod programs;
mod questions;
mod references;
mod rows;
pub mod contents;
pub mod by_hand;
mod scene;

pub use self::{
    objects::ObjectBook,
    questions::Asking,
    scene::{Cast, Scene},
};
