//! Messages in words, and what each kind of channel is sent.

pub(crate) mod facts;
mod mail;
pub(crate) mod receiver;
mod senders;
mod smtp;
mod words;
