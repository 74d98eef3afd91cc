//! Point reads from a store of the same process, where they can be answered at once.
//!
//! A call in memory makes two messages, two sets of headers and a few futures; of a read in memory that is the larger
//! part. Whoever has the store beside it may ask it so first, and calls it when there is no answer.

use std::fmt::Debug;

use tonic::Status;

use crate::kv::v1::{GetRequest, GetResponse};

/// A store that may be asked without a call.
pub trait Reads: Debug + Send + Sync {
    /// The answer that `KeyValue.Get` would give now; `None` where it would have to wait, find something wrong with the
    /// question, or come from a store that stops: then call it.
    fn get(&self, request: &GetRequest) -> Option<Result<GetResponse, Status>>;
}
