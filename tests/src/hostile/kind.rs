//! The kinds of wrong answers.

use super::Path;
use crate::simulation::liar::Lie;

/// One way of answering wrongly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// What the simulation's liars tell as well.
    Told(Lie),

    /// An envelope for another receiver.
    OtherReceiver,
    /// An envelope of another cluster.
    OtherCluster,
    /// An envelope that answers another request of the same asker.
    OtherRequest,
    /// The whole envelope of an earlier answer once more.
    Replay,
    /// An envelope that another member signed.
    OtherSigner,
    /// An envelope that names another member as its sender.
    Relay,
    /// An envelope signed as a request.
    SignedAsRequest,
    /// An envelope of another store of the same node.
    OtherIncarnation,

    /// A seal that another member signed.
    SealOfAnother,
    /// A seal of another store of the same node.
    SealOfOtherIncarnation,
    /// A seal of another cluster.
    SealOfOtherCluster,
    /// A seal whose signature was changed.
    BrokenSeal,
    /// The second answer has another root for the epoch of the first.
    Fork,
    /// A seal of an empty tree, above what it holds.
    EmptySeal,
    /// A root over nothing.
    RootOverNothing,
    /// A seal a thousand million epochs ahead, of another root.
    FarSeal,

    /// A walk answers more positions than were asked for.
    TooManyNodes,
    /// A walk answers a position that was not asked for.
    NodeNotAsked,
    /// A walk answers in another order.
    NodesOutOfOrder,
    /// A walk answers nothing.
    NoNodes,
    /// A walk says that all is equal, where the asker has nothing.
    EqualToNothing,
    /// A walk says that a full node is empty.
    EmptiedNode,

    /// The entries of two buckets change places.
    SwappedPages,
    /// Two pages change places.
    PagesOutOfOrder,
    /// A page for a bucket that was not asked for.
    PageNotAsked,
    /// No pages.
    NoPages,
    /// A page has an entry twice.
    RepeatedEntry,
    /// A page has an entry of another bucket, in the place of one of its own.
    ExtraEntry,
    /// The pages are those of an earlier epoch.
    PagesOfOtherEpoch,
    /// An entry is stamped with a time that is years away.
    FarStamp,
    /// An entry's key is longer than any.
    LongKey,
    /// An entry's value is longer than any.
    LongValue,
    /// A page says that it holds what the asker never named.
    KnownNothing,
    /// An entry comes without its value, though it never expires.
    WithheldValue,
    /// Only heads are told, and their entries never come.
    HeadsOnly,
    /// Nothing proves that the pages are under the root.
    NoBranches,

    /// Every challenge is refused, and another one issued.
    ChallengeForEver,
    /// There is nothing here, it says, after it announced a root.
    NothingHere,

    /// Bytes that are no message.
    NoMessage,
    /// No bytes.
    Empty,
    /// More bytes than any answer has.
    TooLarge,
    /// Half of the bytes that were promised.
    CutShort,
    /// The answer, compressed: a little that grows large.
    Bomb,
    /// The answer, a byte at a time.
    Drip,
    /// Each answer holds as little as it may, and comes just in time.
    Meagre,
    /// Nothing, while the connection stays.
    Nothing,
    /// The connection ends.
    HangUp,
    /// An error of the server.
    ServerError,
    /// Another place to ask.
    Redirect,
}

impl Kind {
    /// Whether it can be told over a path: some are of HTTP alone.
    pub fn is_told_over(self, path: Path) -> bool {
        path == Path::Http || !matches!(self, Self::Bomb | Self::ServerError | Self::Redirect)
    }

    /// What it is called: as here.
    pub fn name(self) -> String {
        match self {
            Self::Told(lie) => format!("{lie:?}"),
            kind => format!("{kind:?}"),
        }
    }
}
