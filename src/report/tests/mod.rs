//! Reports as people and programs see them.

mod facts;
mod hostile;
mod page;
mod programs;

use crate::policy::Language;

const LANGUAGES: [Language; 2] = [Language::En, Language::Zh];
