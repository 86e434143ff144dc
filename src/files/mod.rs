//! The files engine: configuration, certificates, logs; read with all that belongs to a path and written
//! back without ever leaving the place that was meant.
//!
//! | module | duty |
//! |---|---|
//! | [`facts`] | what is kept of a path beside its bytes, and names that are no text |
//! | [`walk`] | all paths below the policy's, in order |
//! | [`source`] | the reader |
//! | [`place`] | a folder that nothing written through it can leave |
//! | [`target`] | the writer, to the original paths or below a folder |
//! | [`examine`] | whether files can be backed up |
//! | [`compare`] | when two paths are the same |
//! | [`folder`] | entries of any source as plain files below a folder |
//!
//! Kept: folders, files, symbolic links; mode, owner, time of change, names of any bytes. *Not kept*: hard
//! links (each name becomes a file of its own), holes of sparse files (they come back filled with zeros),
//! extended attributes and ACLs. Sockets, pipes and devices hold nothing that could be: they are counted.

mod compare;
pub mod examine;
mod facts;
mod folder;
mod place;
mod source;
mod target;
mod walk;

pub use self::{compare::FilesLikeness, folder::EntryFolder, source::FilesSource, target::FilesTarget};
