//! The files engine: configuration, certificates, logs; read with all that belongs to a path and written
//! back without ever leaving the place that was meant.
//!
//! | module | duty |
//! |---|---|
//! | [`facts`] | what is kept of a path beside its bytes, and names that are no text |
//! | [`xattr`] | extended attributes, with ACLs and capabilities |
//! | [`links`] | files with several names |
//! | [`holes`] | files that take less room than their length |
//! | [`found`] | a path that a walk has come to, whatever its name leads to by now |
//! | [`walk`] | all paths below the policy's, in order |
//! | [`source`] | the reader |
//! | [`place`] | a folder that nothing written through it can leave |
//! | [`target`] | the writer, to the original paths or below a folder |
//! | [`examine`] | whether files can be backed up |
//! | [`compare`] | when two paths are the same |
//! | [`folder`] | entries of any source as plain files below a folder |
//!
//! Kept: folders, files, symbolic and hard links; mode, owner, time of change, names of any bytes, holes, extended
//! attributes, ACLs and capabilities. Sockets, pipes and devices hold nothing that could be: they are counted.

mod compare;
pub mod examine;
mod facts;
mod folder;
mod found;
mod holes;
mod links;
mod place;
mod source;
mod target;
mod walk;
mod xattr;

pub use self::{
    compare::FilesLikeness, folder::EntryFolder, source::FilesSource, target::FilesTarget, walk::judge,
};
