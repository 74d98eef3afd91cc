//! Answers one asker's requests, wrongly.

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use lattice_core::exchange::{Answer, Ask, Page, Request, Response};
use lattice_core::model::{Digest, Incarnation, NodeId};
use lattice_core::signed::{Context, Signed};
use lattice_core::time::WallTime;
use lattice_proto::codec::{self, Header};
use lattice_proto::peer::v1 as wire;
use prost::Message as _;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt as _, SeedableRng as _};

use super::offer::Offer;
use super::{Kind, twist};
use crate::simulation::liar::Liar;
use crate::simulation::message::{Message, Parcel};
use crate::simulation::network::Way;

/// Longer than any key may be.
const LONG_KEY: usize = 1_025;

/// What is sent, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// These bytes, as the path sends them.
    Whole(Bytes),
    /// The first half, of a length that promises all.
    CutShort(Bytes),
    /// One byte after the other, with a pause after each.
    Drip(Bytes),
    /// These bytes, after a while.
    Late(Bytes),
    /// These bytes are compressed.
    Bomb(Bytes),
    /// More than anybody reads.
    TooLarge,
    /// Nothing, for ever.
    Nothing,
    /// The end of the connection.
    HangUp,
    /// Status 500.
    ServerError,
    /// A redirect.
    Redirect,
}

/// What answers.
pub struct Mouth {
    kind: Kind,
    offer: Offer,
    /// Another member, whose key it holds as well.
    other: SigningKey,
    liar: Option<Liar>,
    random: Xoshiro256PlusPlus,
    sequence: u64,
    /// The first wrong-able answer.
    earlier: Option<Signed>,
    told: u64,
}

impl Mouth {
    /// Answers of `kind` about what is in `offer`; `other` is another member's key.
    pub fn new(kind: Kind, offer: Offer, other: SigningKey) -> Self {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(4);
        let liar = match kind {
            Kind::Told(lie) => {
                let random = Xoshiro256PlusPlus::seed_from_u64(random.random());
                Some(Liar::new(offer.key().clone(), &[lie], 1.0, random))
            }
            _ => None,
        };
        Self { kind, offer, other, liar, random, sequence: 0, earlier: None, told: 0 }
    }

    /// Who it is.
    pub fn node(&self) -> NodeId {
        self.offer.node()
    }

    /// What it signs with.
    pub fn key(&self) -> &SigningKey {
        self.offer.key()
    }

    /// How often it answered wrongly.
    pub fn told(&self) -> u64 {
        self.told
    }

    /// Its next announcement; that is as it should be.
    pub fn announcement(&mut self, time: WallTime) -> Signed {
        self.sequence += 1;
        self.offer.announcement(self.sequence, time)
    }

    /// Answers a request. What does not belong to a pull, and a pull's end, it answers as it should.
    pub fn answer(&mut self, request: &Signed, time: WallTime) -> Reply {
        let asked = codec::read_header(request)
            .and_then(|(header, payload)| Ok((header, codec::parse_request(payload)?)));
        let Ok((asked, parsed)) = asked else { return Reply::HangUp };
        let header = asked.answer(request, self.offer.incarnation(), self.random.random());
        let answer = self.offer.answer(&parsed.ask, asked.sender, time);
        let response = Response { next_challenge: self.random.random::<[u8; 16]>().to_vec(), time, answer };
        match (parsed.pull, &parsed.ask) {
            (Some(_), Ask::Walk { .. } | Ask::Fetch { .. }) => self.wrong(&parsed, header, response),
            _ => whole(&codec::sign_response(&header, &response, self.offer.key())),
        }
    }

    /// Makes an answer wrong, if there is anything in it that is wrong in this way.
    fn wrong(&mut self, asked: &Request, mut header: Header, mut response: Response) -> Reply {
        let own = self.offer.key().clone();
        let honest = codec::sign_response(&header, &response, &own);
        let first = self.earlier.is_none();
        let earlier = self.earlier.get_or_insert_with(|| honest.clone()).clone();
        let mut key = &own;
        let told = match self.kind {
            Kind::Told(_) => return self.lie(honest),
            Kind::OtherReceiver => {
                header.receiver = NodeId(self.other.verifying_key().to_bytes());
                true
            }
            Kind::OtherCluster => {
                header.cluster = "elsewhere".to_owned();
                true
            }
            Kind::OtherRequest => {
                header.request_hash = Some(Digest::of(&[b"another request"]));
                true
            }
            Kind::Replay if !first => return self.tell(whole(&earlier)),
            Kind::Replay => false,
            Kind::OtherSigner => {
                key = &self.other;
                true
            }
            Kind::Relay => {
                header.sender = NodeId(self.other.verifying_key().to_bytes());
                key = &self.other;
                true
            }
            Kind::SignedAsRequest => {
                return self.tell(whole(&Signed::sign(Context::Request, honest.body, &own)));
            }
            Kind::OtherIncarnation => {
                header.incarnation = Incarnation([0x77; 16]);
                true
            }
            Kind::Fork if first => false,
            Kind::SealOfAnother
            | Kind::SealOfOtherIncarnation
            | Kind::SealOfOtherCluster
            | Kind::BrokenSeal
            | Kind::Fork
            | Kind::EmptySeal
            | Kind::RootOverNothing
            | Kind::FarSeal => twist::seal(self.kind, &mut response.answer, &own, &self.other),
            Kind::TooManyNodes
            | Kind::NodeNotAsked
            | Kind::NodesOutOfOrder
            | Kind::NoNodes
            | Kind::EqualToNothing
            | Kind::EmptiedNode => twist::walk(self.kind, &mut response.answer),
            Kind::SwappedPages
            | Kind::PagesOutOfOrder
            | Kind::PageNotAsked
            | Kind::NoPages
            | Kind::RepeatedEntry
            | Kind::ExtraEntry
            | Kind::PagesOfOtherEpoch
            | Kind::FarStamp
            | Kind::LongValue
            | Kind::KnownNothing
            | Kind::WithheldValue
            | Kind::HeadsOnly
            | Kind::NoBranches => {
                let (offer, asker, time) = (&self.offer, header.receiver, response.time);
                let earlier = |page: &Page| page_of_earlier(offer, asked, page, asker, time);
                twist::fetch(self.kind, &mut response.answer, earlier)
            }
            Kind::ChallengeForEver | Kind::NothingHere => twist::refuse(self.kind, &mut response.answer),
            Kind::LongKey => match with_long_key(&response) {
                Some(payload) => return self.tell(whole(&sign(&header, payload, &own))),
                None => false,
            },
            Kind::NoMessage => return self.tell(Reply::Whole(Bytes::from_static(&[0xff; 100]))),
            Kind::Empty => return self.tell(Reply::Whole(Bytes::new())),
            Kind::TooLarge => return self.tell(Reply::TooLarge),
            Kind::CutShort => return self.tell(Reply::CutShort(codec::encode_signed(&honest).into())),
            Kind::Bomb => return self.tell(Reply::Bomb(bomb().into())),
            Kind::Drip => return self.tell(Reply::Drip(codec::encode_signed(&honest).into())),
            Kind::Meagre => {
                let ask = least_of(&asked.ask);
                response.answer = self.offer.answer(&ask, header.receiver, response.time);
                let signed = codec::sign_response(&header, &response, &own);
                return self.tell(Reply::Late(codec::encode_signed(&signed).into()));
            }
            Kind::Nothing => return self.tell(Reply::Nothing),
            Kind::HangUp => return self.tell(Reply::HangUp),
            Kind::ServerError => return self.tell(Reply::ServerError),
            Kind::Redirect => return self.tell(Reply::Redirect),
        };
        self.told += u64::from(told);
        whole(&codec::sign_response(&header, &response, key))
    }

    fn tell(&mut self, reply: Reply) -> Reply {
        self.told += 1;
        reply
    }

    /// Has the simulation's liar say it.
    fn lie(&mut self, honest: Signed) -> Reply {
        let Some(liar) = &mut self.liar else { return whole(&honest) };
        let message = Message::Answer { question: 0, outcome: Ok(honest) };
        let said = liar.twist(Parcel { to: 0, way: Way::Http, message });
        self.told = liar.told.values().sum();
        match said.map(|parcel| parcel.message) {
            Some(Message::Answer { outcome: Ok(signed), .. }) => whole(&signed),
            _ => Reply::Nothing,
        }
    }
}

fn whole(signed: &Signed) -> Reply {
    Reply::Whole(codec::encode_signed(signed).into())
}

/// The first thing asked, alone.
fn least_of(ask: &Ask) -> Ask {
    let mut ask = ask.clone();
    match &mut ask {
        Ask::Walk { nodes, .. } => nodes.truncate(1),
        Ask::Fetch { buckets, .. } => buckets.truncate(1),
        Ask::Hello | Ask::Bye => {}
    }
    ask
}

/// The page of one bucket at the earlier seal, if the tree had a bucket there.
fn page_of_earlier(
    offer: &Offer,
    asked: &Request,
    page: &Page,
    asker: NodeId,
    time: WallTime,
) -> Option<Page> {
    let Ask::Fetch { buckets, .. } = &asked.ask else { return None };
    let bucket = buckets.iter().find(|bucket| bucket.position == page.position)?;
    let ask = Ask::Fetch { epoch: None, buckets: vec![bucket.clone()] };
    match offer.answer_earlier(&ask, asker, time) {
        Answer::Fetch { mut pages, .. } => pages.pop(),
        _ => None,
    }
}

/// The payload of a response, one of whose keys is too long.
fn with_long_key(response: &Response) -> Option<Vec<u8>> {
    let mut wire = wire::Response::from(response);
    let Some(wire::response::Answer::Fetch(answer)) = &mut wire.answer else { return None };
    let page = answer.pages.iter_mut().find_map(|page| match &mut page.bucket {
        Some(wire::page::Bucket::Entries(entries)) => entries.entries.last_mut(),
        _ => None,
    });
    page?.key = vec![b'k'; LONG_KEY].into();
    Some(wire.encode_to_vec())
}

/// An envelope around bytes that no honest node would send.
fn sign(header: &Header, payload: Vec<u8>, key: &SigningKey) -> Signed {
    let copy = Bytes::copy_from_slice;
    let envelope = wire::Envelope {
        cluster: header.cluster.clone(),
        sender: copy(header.sender.as_bytes()),
        incarnation: copy(&header.incarnation.0),
        receiver: copy(header.receiver.as_bytes()),
        challenge: header.challenge.clone(),
        nonce: copy(&header.nonce),
        traceparent: header.traceparent.clone(),
        request_hash: header.request_hash.map(|hash| copy(hash.as_bytes())).unwrap_or_default(),
        payload: payload.into(),
    };
    Signed::sign(Context::Response, envelope.encode_to_vec().into(), key)
}

/// Half a gibibyte of zeros, compressed by gzip: three megabytes of one deflate block that repeats its first byte.
fn bomb() -> Vec<u8> {
    const REPEATS: usize = 2 << 20;
    let mut bytes = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
    let (mut waiting, mut bits) = (0_u64, 0);
    let mut put = |code: u64, length: u32, bytes: &mut Vec<u8>| {
        waiting |= code << bits;
        bits += length;
        while bits >= 8 {
            bytes.push(waiting as u8);
            waiting >>= 8;
            bits -= 8;
        }
    };
    // The last block, of fixed codes; a zero.
    put(0b011, 3, &mut bytes);
    put(0b0000_1100, 8, &mut bytes);
    for _ in 0..REPEATS {
        // 258 bytes (code 11000101), one byte back (code 00000); codes come highest bit first.
        put(0b1010_0011, 8, &mut bytes);
        put(0, 5, &mut bytes);
    }
    put(0, 7 + 8, &mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn the_bomb_is_one() {
        let bomb = bomb();
        assert!(bomb.len() < codec::SIGNED_BYTES_MAX, "it is refused for what it is, not for its size");
        let mut gzip = Command::new("sh")
            .args(["-c", "gzip -dc 2>/dev/null | wc -c"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        gzip.stdin.take().unwrap().write_all(&bomb).unwrap();
        let counted = gzip.wait_with_output().unwrap();
        let bytes: u64 = String::from_utf8(counted.stdout).unwrap().trim().parse().unwrap();
        assert!(bytes > 500 << 20, "{bytes}");
    }
}
