//! What travels on the two request-response protocols: signed messages, each in one frame.
//!
//! A frame is its length as a varint and then that many bytes, so that a stream which ends early is told
//! apart from a short message (QUIC ends a dropped stream as if it were finished). The bytes are an encoded
//! `lattice.types.v1.Signed`. An answer may be an empty frame: to an announcement, "heard"; to an exchange,
//! "nobody answers here". Limits are checked before anything is read, and memory grows with what arrives,
//! not with what a length promises.

use std::io;

use bytes::Bytes;
use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use lattice_core::signed::Signed;
use lattice_proto::codec::{ANNOUNCEMENT_BYTES_MAX, SIGNED_BYTES_MAX, decode_signed, encode_signed};
use libp2p::StreamProtocol;
use libp2p::request_response;

/// Announcements up, nothing but "heard" back.
pub(crate) const ANNOUNCE: StreamProtocol = StreamProtocol::new("/lattice/announce/1");
/// Signed envelopes both ways.
pub(crate) const EXCHANGE: StreamProtocol = StreamProtocol::new("/lattice/exchange/1");

/// What a signature and its framing add to a body.
const SIGNATURE_BYTES: usize = 128;
/// A varint of 64 bits takes no more.
const VARINT_BYTES_MAX: usize = 10;

/// Reads and writes frames, within limits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Codec {
    request_bytes_max: usize,
    answer_bytes_max: usize,
}

impl Codec {
    /// For [`ANNOUNCE`].
    pub(crate) fn announce() -> Self {
        Self { request_bytes_max: ANNOUNCEMENT_BYTES_MAX + SIGNATURE_BYTES, answer_bytes_max: 0 }
    }

    /// For [`EXCHANGE`].
    pub(crate) fn exchange() -> Self {
        Self { request_bytes_max: SIGNED_BYTES_MAX, answer_bytes_max: SIGNED_BYTES_MAX }
    }
}

impl request_response::Codec for Codec {
    type Protocol = StreamProtocol;
    type Request = Signed;
    type Response = Option<Signed>;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Signed>
    where
        T: AsyncRead + Unpin + Send,
    {
        let frame = read_frame(io, self.request_bytes_max).await?;
        decode_signed(frame).map_err(invalid)
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Option<Signed>>
    where
        T: AsyncRead + Unpin + Send,
    {
        let frame = read_frame(io, self.answer_bytes_max).await?;
        if frame.is_empty() {
            return Ok(None);
        }
        decode_signed(frame).map(Some).map_err(invalid)
    }

    async fn write_request<T>(&mut self, _: &StreamProtocol, io: &mut T, request: Signed) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write_frame(io, &encode_signed(&request)).await
    }

    async fn write_response<T>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        answer: Option<Signed>,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        let bytes = answer.as_ref().map(encode_signed).unwrap_or_default();
        write_frame(io, &bytes).await
    }
}

async fn read_frame<T: AsyncRead + Unpin>(io: &mut T, bytes_max: usize) -> io::Result<Bytes> {
    let length = read_length(io).await?;
    if length > bytes_max as u64 {
        return Err(invalid(format!("a frame of {length} bytes: it takes at most {bytes_max}")));
    }
    let mut frame = Vec::new();
    io.take(length).read_to_end(&mut frame).await?;
    if (frame.len() as u64) < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(frame.into())
}

async fn read_length<T: AsyncRead + Unpin>(io: &mut T) -> io::Result<u64> {
    let mut length = 0_u64;
    for index in 0..VARINT_BYTES_MAX {
        let mut byte = [0];
        io.read_exact(&mut byte).await?;
        let bits = u64::from(byte[0] & 0x7f);
        let shift = 7 * index as u32;
        if bits != 0 && (bits << shift) >> shift != bits {
            break;
        }
        length |= bits << shift;
        if byte[0] & 0x80 == 0 {
            return Ok(length);
        }
    }
    Err(invalid("the length of a frame has more than 64 bits"))
}

async fn write_frame<T: AsyncWrite + Unpin>(io: &mut T, frame: &[u8]) -> io::Result<()> {
    let mut head = Vec::with_capacity(VARINT_BYTES_MAX);
    let mut length = frame.len();
    while length >= 0x80 {
        head.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    head.push(length as u8);
    io.write_all(&head).await?;
    io.write_all(frame).await
}

fn invalid(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use futures::io::Cursor;
    use proptest::prelude::*;
    use request_response::Codec as _;

    use super::*;

    fn signed(bytes: usize) -> Signed {
        Signed { body: vec![7; bytes].into(), signature: [9; 64] }
    }

    async fn request_through(mut codec: Codec, request: Signed) -> io::Result<Signed> {
        let mut wire = Cursor::new(Vec::new());
        codec.write_request(&EXCHANGE, &mut wire, request).await?;
        wire.set_position(0);
        codec.read_request(&EXCHANGE, &mut wire).await
    }

    #[tokio::test]
    async fn what_is_written_is_read() {
        for size in [1, 100, 127, 128, 10_000, ANNOUNCEMENT_BYTES_MAX] {
            assert_eq!(request_through(Codec::announce(), signed(size)).await.unwrap(), signed(size));
        }
        let mut codec = Codec::exchange();
        for answer in [None, Some(signed(1)), Some(signed(1 << 20))] {
            let mut wire = Cursor::new(Vec::new());
            codec.write_response(&EXCHANGE, &mut wire, answer.clone()).await.unwrap();
            wire.set_position(0);
            assert_eq!(codec.read_response(&EXCHANGE, &mut wire).await.unwrap(), answer);
        }
    }

    #[tokio::test]
    async fn an_oversized_frame_is_refused_before_it_is_read() {
        let refused =
            request_through(Codec::announce(), signed(ANNOUNCEMENT_BYTES_MAX + 200)).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
        // A length alone, of 2^63 bytes: nothing is waited for or reserved.
        let mut wire = Cursor::new([0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01].to_vec());
        let refused = Codec::exchange().read_request(&EXCHANGE, &mut wire).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
    }

    #[tokio::test]
    async fn a_stream_that_ends_early_is_no_message() {
        for wire in [vec![], vec![0x80], vec![5, 1, 2], vec![0xff; 11]] {
            let mut wire = Cursor::new(wire);
            assert!(Codec::exchange().read_response(&EXCHANGE, &mut wire).await.is_err());
        }
    }

    #[tokio::test]
    async fn an_announcement_is_answered_by_nothing_but_heard() {
        let mut wire = Cursor::new(Vec::new());
        Codec::exchange().write_response(&EXCHANGE, &mut wire, Some(signed(1))).await.unwrap();
        wire.set_position(0);
        assert!(Codec::announce().read_response(&ANNOUNCE, &mut wire).await.is_err());
    }
    /// A request as it is written; nothing is waited for.
    fn written(request: Signed) -> Vec<u8> {
        let mut wire = Cursor::new(Vec::new());
        Codec::exchange().write_request(&EXCHANGE, &mut wire, request).now_or_never().unwrap().unwrap();
        wire.into_inner()
    }

    /// A request out of bytes that are all there.
    fn read(mut codec: Codec, bytes: Vec<u8>) -> io::Result<Signed> {
        codec.read_request(&EXCHANGE, &mut Cursor::new(bytes)).now_or_never().unwrap()
    }

    proptest! {
        /// Nothing that comes makes it wait for more than it has said, and what is read is what would be written.
        #[test]
        fn whatever_comes_is_refused_or_a_message(
            size in 0..300_usize,
            cut in 0..400_usize,
            at in 0..400_usize,
            to in any::<u8>(),
            noise in prop::collection::vec(any::<u8>(), 0..40),
            made_up in any::<bool>(),
        ) {
            let mut bytes = if made_up { noise } else { written(signed(size)) };
            if let Some(byte) = bytes.get_mut(at) {
                *byte = to;
            }
            bytes.truncate(cut);
            for codec in [Codec::exchange(), Codec::announce()] {
                if let Ok(message) = read(codec, bytes.clone()) {
                    prop_assert_eq!(read(codec, written(message.clone())).unwrap(), message);
                }
            }
        }
    }
}
