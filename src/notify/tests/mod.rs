//! Messages in words, and what each kind of channel is sent.

mod facts;
mod receiver;
mod senders;
mod words;
