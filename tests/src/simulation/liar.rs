//! A member that lies: an honest node whose words are changed on their way out, and signed anew with its own
//! key.
//!
//! What it invents is never among what clients wrote, so that the ledger finds any of it that is believed. Lies
//! that anybody could tell (a broken signature, silence) are among them, since they must not look like the
//! peer's own.

use std::collections::BTreeMap;

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use lattice_core::exchange::{Answer, PageBucket, Reason, Refusal, Response, Shape};
use lattice_core::model::{Content, Digest, Entry, Epoch, Hlc, Key, NodeId, Version};
use lattice_core::seal::{Root, Seal};
use lattice_core::signed::{Context, Signed, SignedSeal};
use lattice_core::time::WallTime;
use lattice_proto::codec;
use rand::RngExt as _;
use rand::rngs::Xoshiro256PlusPlus;

use super::message::{Message, Parcel};
use super::settings::CLUSTER;

/// One kind of lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lie {
    /// An entry of a page has another value.
    ChangedValue,
    /// A page has an entry that no tree holds.
    InventedEntry,
    /// A child of an inner node has another digest.
    ChangedDigest,
    /// A child of an inner node holds more than it does.
    ChangedCount,
    /// A bucket's entry has a newer version, of which only the head is told.
    ChangedHead,
    /// A page leaves out an entry.
    LeftOutEntry,
    /// A bucket is said to be where an inner node is.
    SaidBucket,
    /// An inner node above the pages holds more than it does.
    ChangedChain,
    /// The seal of an answer has another root.
    ChangedSeal,
    /// The seal of an answer is of an earlier epoch.
    OldSeal,
    /// The newest root that it announces is another one.
    ChangedAnnouncement,
    /// It announces what it announced first, for ever.
    RepeatedAnnouncement,
    /// It announces its root for an epoch that is years away.
    FarEpoch,
    /// It refuses.
    Refusal,
    /// It never answers.
    Silence,
    /// It answers another question.
    OtherAnswer,
    /// It answers with an answer that it gave before.
    EarlierAnswer,
    /// It answers with bytes that mean nothing, and signs them.
    Garbage,
    /// Its signature does not verify.
    BrokenSignature,
    /// Its clock is an hour off.
    WrongTime,
    /// It refuses, since the asker's incarnation was replaced: so it says.
    Disowned,
    /// It heard more from the asker than there was.
    HeardMore,
    /// It asks what it asked before, with the same envelope.
    EarlierRequest,
    /// It asks with bytes that mean nothing, and signs them.
    GarbageRequest,
    /// It gossips an entry that another node is to have written.
    ForeignDelta,
    /// It gossips bytes that mean nothing.
    GarbageDelta,
}

impl Lie {
    /// All of them.
    pub const ALL: [Self; 26] = [
        Self::ChangedValue,
        Self::InventedEntry,
        Self::ChangedDigest,
        Self::ChangedCount,
        Self::ChangedHead,
        Self::LeftOutEntry,
        Self::SaidBucket,
        Self::ChangedChain,
        Self::ChangedSeal,
        Self::OldSeal,
        Self::ChangedAnnouncement,
        Self::RepeatedAnnouncement,
        Self::FarEpoch,
        Self::Refusal,
        Self::Silence,
        Self::OtherAnswer,
        Self::EarlierAnswer,
        Self::Garbage,
        Self::BrokenSignature,
        Self::WrongTime,
        Self::Disowned,
        Self::HeardMore,
        Self::EarlierRequest,
        Self::GarbageRequest,
        Self::ForeignDelta,
        Self::GarbageDelta,
    ];

    /// In a few words.
    pub fn name(self) -> &'static str {
        match self {
            Self::ChangedValue => "changed value",
            Self::InventedEntry => "invented entry",
            Self::ChangedDigest => "changed digest",
            Self::ChangedCount => "changed count",
            Self::ChangedHead => "changed head",
            Self::LeftOutEntry => "left out entry",
            Self::SaidBucket => "said bucket",
            Self::ChangedChain => "changed chain",
            Self::ChangedSeal => "changed seal",
            Self::OldSeal => "old seal",
            Self::ChangedAnnouncement => "changed announcement",
            Self::RepeatedAnnouncement => "repeated announcement",
            Self::FarEpoch => "far epoch",
            Self::Refusal => "refusal",
            Self::Silence => "silence",
            Self::OtherAnswer => "other answer",
            Self::EarlierAnswer => "earlier answer",
            Self::Garbage => "garbage",
            Self::BrokenSignature => "broken signature",
            Self::WrongTime => "wrong time",
            Self::Disowned => "disowned",
            Self::HeardMore => "heard more",
            Self::EarlierRequest => "earlier request",
            Self::GarbageRequest => "garbage request",
            Self::ForeignDelta => "foreign delta",
            Self::GarbageDelta => "garbage delta",
        }
    }
}

/// A node that lies.
#[derive(Debug)]
pub struct Liar {
    key: SigningKey,
    lies: Vec<Lie>,
    /// Of its answers, the part that are lies.
    often: f64,
    random: Xoshiro256PlusPlus,
    announced: Option<Signed>,
    answered: Option<Response>,
    asked: Option<Signed>,
    /// How often it told which lie.
    pub told: BTreeMap<Lie, u64>,
}

impl Liar {
    /// Tells these lies, so often.
    pub fn new(key: SigningKey, lies: &[Lie], often: f64, random: Xoshiro256PlusPlus) -> Self {
        Self {
            key,
            lies: lies.to_vec(),
            often,
            random,
            announced: None,
            answered: None,
            asked: None,
            told: BTreeMap::new(),
        }
    }

    /// What is sent instead of an honest parcel.
    pub fn twist(&mut self, parcel: Parcel) -> Option<Parcel> {
        let lie = self.lies[self.random.random_range(0..self.lies.len())];
        let lies = self.random.random_bool(self.often);
        let message = match parcel.message {
            Message::Announcement(signed) => Message::Announcement(self.announcement(lie, lies, signed)),
            Message::Answer { question, outcome: Ok(signed) } => {
                let said = match codec::open_announcement(&signed) {
                    Ok(_) => Some(self.announcement(lie, lies, signed)),
                    Err(_) => self.answer(lie, lies, signed),
                };
                Message::Answer { question, outcome: Ok(said?) }
            }
            Message::Request { question, envelope } => {
                Message::Request { question, envelope: self.request(lie, lies, envelope) }
            }
            honest => honest,
        };
        Some(Parcel { message, ..parcel })
    }

    /// What is gossiped instead of an honest delta.
    pub fn twist_delta(&mut self, honest: &Bytes) -> Bytes {
        let lie = self.lies[self.random.random_range(0..self.lies.len())];
        let lies = self.random.random_bool(self.often);
        let said = match lie {
            _ if !lies => return honest.clone(),
            Lie::GarbageDelta => honest.slice(..honest.len() / 2),
            Lie::ForeignDelta => {
                let Ok(key) = Key::try_from("foreign") else { return honest.clone() };
                let version = Version { hlc: Hlc(1), writer: NodeId([7; 32]) };
                let content = Content::Value(Bytes::from_static(b"a lie"));
                let entry = Entry { key, version, expires: None, content };
                let mut deltas = codec::split_deltas(CLUSTER, std::slice::from_ref(&entry), "");
                deltas.next().map_or_else(|| honest.clone(), Bytes::from)
            }
            _ => return honest.clone(),
        };
        self.tell(lie);
        said
    }

    fn request(&mut self, lie: Lie, lies: bool, honest: Signed) -> Signed {
        let earlier = self.asked.replace(honest.clone());
        let said = match (lie, earlier) {
            _ if !lies => return honest,
            (Lie::EarlierRequest, Some(earlier)) => earlier,
            (Lie::GarbageRequest, _) => self.garbage(Context::Request, &honest),
            _ => return honest,
        };
        self.tell(lie);
        said
    }

    fn announcement(&mut self, lie: Lie, lies: bool, honest: Signed) -> Signed {
        let first = self.announced.get_or_insert_with(|| honest.clone()).clone();
        let Ok(opened) = codec::decode_announcement(&honest) else { return honest };
        let mut announcement = opened.announcement;
        match lie {
            _ if !lies => return honest,
            Lie::RepeatedAnnouncement => {
                self.tell(lie);
                return first;
            }
            Lie::BrokenSignature => {
                self.tell(lie);
                return broken(honest);
            }
            Lie::ChangedAnnouncement => match announcement.runs.last_mut() {
                Some(newest) => newest.root = Some(self.root()),
                None => return honest,
            },
            Lie::FarEpoch => match announcement.runs.last_mut() {
                Some(newest) => newest.to = Epoch(newest.to.0 + 1_000_000_000),
                None => return honest,
            },
            Lie::WrongTime => announcement.time = WallTime(announcement.time.millis() + 3_600_000),
            _ => return honest,
        }
        self.tell(lie);
        codec::sign_announcement(&announcement, &self.key).signed
    }

    fn answer(&mut self, lie: Lie, lies: bool, honest: Signed) -> Option<Signed> {
        let Ok((header, payload)) = codec::read_header(&honest) else { return Some(honest) };
        let Ok(mut response) = codec::parse_response(payload) else { return Some(honest) };
        let earlier = self.answered.replace(response.clone());
        // A refusal for its challenge is left alone, or it would never be asked anything.
        let challenge =
            matches!(&response.answer, Answer::Refused(refusal) if refusal.reason == Reason::Challenge);
        if !lies || challenge {
            return Some(honest);
        }
        let changed = match lie {
            Lie::Silence => {
                self.tell(lie);
                return None;
            }
            Lie::BrokenSignature => {
                self.tell(lie);
                return Some(broken(honest));
            }
            Lie::Garbage => {
                self.tell(lie);
                return Some(self.garbage(Context::Response, &honest));
            }
            Lie::Refusal => {
                let detail = "not in the mood".to_owned();
                response.answer = Answer::Refused(Refusal { reason: Reason::Busy, detail });
                true
            }
            Lie::Disowned => {
                let detail = "was replaced by a newer one".to_owned();
                response.answer = Answer::Refused(Refusal { reason: Reason::Incarnation, detail });
                true
            }
            Lie::HeardMore => match &mut response.answer {
                Answer::Hello { heard_sequence, heard_epoch } => {
                    (*heard_sequence, *heard_epoch) = (u64::MAX, Epoch(u64::MAX));
                    true
                }
                _ => false,
            },
            Lie::OtherAnswer => {
                let other = match response.answer {
                    Answer::Bye => Answer::Hello { heard_sequence: 0, heard_epoch: Epoch(0) },
                    _ => Answer::Bye,
                };
                response.answer = other;
                true
            }
            Lie::EarlierAnswer => match earlier {
                Some(earlier) => {
                    response.answer = earlier.answer;
                    true
                }
                None => false,
            },
            Lie::WrongTime => {
                response.time = WallTime(response.time.millis() + 3_600_000);
                true
            }
            Lie::ChangedSeal | Lie::OldSeal => self.seal(lie, &mut response.answer),
            Lie::ChangedValue
            | Lie::InventedEntry
            | Lie::ChangedHead
            | Lie::LeftOutEntry
            | Lie::ChangedChain => page(lie, &mut response.answer),
            Lie::ChangedDigest | Lie::ChangedCount | Lie::SaidBucket => node(lie, &mut response.answer),
            Lie::ChangedAnnouncement
            | Lie::RepeatedAnnouncement
            | Lie::FarEpoch
            | Lie::EarlierRequest
            | Lie::GarbageRequest
            | Lie::ForeignDelta
            | Lie::GarbageDelta => false,
        };
        if !changed {
            return Some(honest);
        }
        self.tell(lie);
        Some(codec::sign_response(&header, &response, &self.key))
    }

    fn tell(&mut self, lie: Lie) {
        *self.told.entry(lie).or_default() += 1;
    }

    fn seal(&mut self, lie: Lie, answer: &mut Answer) -> bool {
        let root = self.root();
        let (Answer::Walk { seal, .. } | Answer::Fetch { seal, .. }) = answer else { return false };
        let said = match lie {
            Lie::OldSeal => {
                Seal { epoch: Epoch(seal.seal.epoch.0.saturating_sub(1_000)), ..seal.seal.clone() }
            }
            _ => Seal { root: Some(root), ..seal.seal.clone() },
        };
        *seal = codec::sign_seal(&said, &self.key);
        debug_assert!(SignedSeal::verify(seal).is_ok(), "a liar signs its lies");
        true
    }

    /// The honest bytes, the last of which are its payload's, overwritten with what is no message.
    fn garbage(&self, context: Context, honest: &Signed) -> Signed {
        let mut body = honest.body.to_vec();
        let kept = body.len().saturating_sub(6);
        body[kept..].fill(0xff);
        Signed::sign(context, body.into(), &self.key)
    }

    fn root(&mut self) -> Root {
        Root { digest: Digest(self.random.random()), entries: 1, tombstones: 0 }
    }
}

fn page(lie: Lie, answer: &mut Answer) -> bool {
    let Answer::Fetch { pages, chains, .. } = answer else { return false };
    if lie == Lie::ChangedChain {
        chains.branches.iter_mut().for_each(|branch| branch.entries += 1);
        return !chains.branches.is_empty();
    }
    for page in pages {
        let PageBucket::Entries { entries, heads, .. } = &mut page.bucket else { continue };
        let Some(entry) = entries.last_mut() else { continue };
        match lie {
            Lie::ChangedValue => entry.content = Content::Value(Bytes::from_static(b"a lie")),
            // Consistent in itself, but under no root.
            Lie::InventedEntry => {
                let version = Version { hlc: entry.version.hlc.next(), writer: entry.version.writer };
                let content = Content::Value(Bytes::from_static(b"a lie"));
                *entry = Entry { version, content, ..entry.clone() };
            }
            Lie::ChangedHead => {
                let mut head = entry.head();
                head.version.hlc = head.version.hlc.next();
                entries.pop();
                heads.push(head);
                heads.sort_by_key(|head| head.key_hash);
            }
            Lie::LeftOutEntry => drop(entries.pop()),
            _ => continue,
        }
        return true;
    }
    false
}

fn node(lie: Lie, answer: &mut Answer) -> bool {
    let Answer::Walk { nodes, .. } = answer else { return false };
    for node in nodes {
        let Shape::Inner { others, .. } = &mut node.shape else { continue };
        if lie == Lie::SaidBucket {
            node.shape = Shape::Bucket;
            return true;
        }
        let Some(child) = others.iter_mut().find(|child| child.total() > 0) else { continue };
        match lie {
            Lie::ChangedDigest => child.digest.0[7] ^= 1,
            _ => child.entries += 1,
        }
        return true;
    }
    false
}

fn broken(mut signed: Signed) -> Signed {
    signed.signature[3] ^= 1;
    signed
}
