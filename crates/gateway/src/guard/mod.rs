//! What every request passes before it is looked at, over REST and over gRPC alike: who may call from a page of
//! another site, how often one client may call, under which id its answer is found again, and what is compressed.
//!
//! What a request may do is decided later ([`crate::auth`]), and what its body may hold ([`crate::body`]).

mod compression;
mod cors;
mod rate;
mod request_id;

pub(crate) use compression::Compressible;
pub(crate) use cors::{Origins, cors};
pub(crate) use rate::Rates;
pub(crate) use request_id::{REQUEST_ID, identify};
