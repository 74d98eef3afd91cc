//! A client of the routes `/v1/kv` and `/v1/batch` over HTTP/1.1, as small as it can be: what it takes itself is missing
//! to the server that is measured on the same processors.
//!
//! One request at a time on one connection that stays open. It reads answers that have a `content-length`, or come in
//! chunks of any size, and no others.

use std::io;
use std::net::SocketAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::Status;

use crate::server::KeyValue;

/// How much is read at once.
const READ_BYTES: usize = 64 << 10;
const HEAD_END: &[u8] = b"\r\n\r\n";

/// One connection, made with the first request. A clone has its own.
#[derive(Debug)]
pub struct Client {
    address: SocketAddr,
    stream: Option<TcpStream>,
    /// What came and is not used yet: the beginning of an answer.
    received: Vec<u8>,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// What came with it.
    pub body: Vec<u8>,
}

#[derive(Deserialize)]
struct Page {
    entries: Vec<serde::de::IgnoredAny>,
}

/// The head of an answer.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    /// `None` when it comes in chunks.
    length: Option<usize>,
    /// How long the head is, with the line that ends it.
    bytes: usize,
}

impl Clone for Client {
    fn clone(&self) -> Self {
        Self::new(self.address)
    }
}

impl Client {
    /// A client of a server.
    pub fn new(address: SocketAddr) -> Self {
        Self { address, stream: None, received: Vec::new() }
    }

    /// Sends a request and reads its answer.
    ///
    /// # Errors
    /// When the connection breaks, or what comes is no answer that this client reads.
    pub async fn call(&mut self, method: &str, target: &str, kind: &str, body: &[u8]) -> io::Result<Answer> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => {
                self.received.clear();
                let stream = TcpStream::connect(self.address).await?;
                stream.set_nodelay(true)?;
                stream
            }
        };
        let mut request = format!("{method} {target} HTTP/1.1\r\nhost: {}\r\n", self.address);
        if !body.is_empty() {
            request.push_str(&format!("content-type: {kind}\r\ncontent-length: {}\r\n", body.len()));
        }
        request.push_str("\r\n");
        let mut request = request.into_bytes();
        request.extend_from_slice(body);
        stream.write_all(&request).await?;

        let head = loop {
            match head(&self.received)? {
                Some(head) => break head,
                None => self.read(&mut stream).await?,
            }
        };
        self.received.drain(..head.bytes);
        let body = match head.length {
            Some(length) => {
                while self.received.len() < length {
                    self.read(&mut stream).await?;
                }
                self.received.drain(..length).collect()
            }
            None => self.chunks(&mut stream).await?,
        };
        // Only now: a connection whose answer was not read to its end is of no more use.
        self.stream = Some(stream);
        Ok(Answer { status: head.status, body })
    }

    async fn chunks(&mut self, stream: &mut TcpStream) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let Some(line) = find(&self.received, b"\r\n") else {
                self.read(stream).await?;
                continue;
            };
            let size = std::str::from_utf8(&self.received[..line]).ok();
            let size = size.and_then(|text| usize::from_str_radix(text, 16).ok());
            let size = size.ok_or_else(|| strange("a chunk without its size"))?;
            let end = line + 2 + size;
            while self.received.len() < end + 2 {
                self.read(stream).await?;
            }
            body.extend_from_slice(&self.received[line + 2..end]);
            self.received.drain(..end + 2);
            if size == 0 {
                return Ok(body);
            }
        }
    }

    async fn read(&mut self, stream: &mut TcpStream) -> io::Result<()> {
        self.received.reserve(READ_BYTES);
        match stream.read_buf(&mut self.received).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    async fn asked(
        &mut self,
        method: &str,
        target: &str,
        kind: &str,
        body: &[u8],
    ) -> Result<Option<Vec<u8>>, Status> {
        let answer = self.call(method, target, kind, body).await;
        let answer = answer.map_err(|error| Status::unavailable(error.to_string()))?;
        match answer.status {
            200 => Ok(Some(answer.body)),
            404 => Ok(None),
            status => Err(Status::unknown(format!("{status}: {}", String::from_utf8_lossy(&answer.body)))),
        }
    }
}

/// What a request that was sent to a route that is there is answered with.
fn there(body: Option<Vec<u8>>) -> Result<Vec<u8>, Status> {
    body.ok_or_else(|| Status::not_found("there is no such route"))
}

/// Keys here are letters and digits, which no path has to encode.
fn text(key: &[u8]) -> String {
    String::from_utf8_lossy(key).into_owned()
}

impl KeyValue for Client {
    async fn put(&mut self, key: Bytes, value: Bytes) -> Result<(), Status> {
        let target = format!("/v1/kv/{}", text(&key));
        there(self.asked("PUT", &target, "application/octet-stream", &value).await?).map(|_| ())
    }

    async fn put_all(&mut self, entries: Vec<(Bytes, Bytes)>) -> Result<(), Status> {
        let operations: Vec<_> = entries
            .iter()
            .map(|(key, value)| json!({"op": "put", "key": text(key), "value": STANDARD.encode(value)}))
            .collect();
        let body = json!({ "operations": operations }).to_string();
        there(self.asked("POST", "/v1/batch", "application/json", body.as_bytes()).await?).map(|_| ())
    }

    async fn get(&mut self, key: Bytes) -> Result<Option<usize>, Status> {
        let body = self.asked("GET", &format!("/v1/kv/{}", text(&key)), "", b"").await?;
        Ok(body.map(|value| value.len()))
    }

    async fn scan(&mut self, prefix: Bytes, limit: u32) -> Result<usize, Status> {
        let target = format!("/v1/kv?prefix={}&limit={limit}", text(&prefix));
        let body = there(self.asked("GET", &target, "", b"").await?)?;
        let page: Page = serde_json::from_slice(&body).map_err(|error| Status::unknown(error.to_string()))?;
        Ok(page.entries.len())
    }
}

/// The head at the beginning of what was received; `None` while it is not whole.
fn head(received: &[u8]) -> io::Result<Option<Head>> {
    let Some(end) = find(received, HEAD_END) else { return Ok(None) };
    let text = std::str::from_utf8(&received[..end]).map_err(|_| strange("a head that is no text"))?;
    let mut lines = text.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| strange("a head without a status"))?;
    let mut head = Head { status, length: None, bytes: end + HEAD_END.len() };
    let mut chunked = false;
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        match name {
            name if name.eq_ignore_ascii_case("content-length") => head.length = value.trim().parse().ok(),
            name if name.eq_ignore_ascii_case("transfer-encoding") => chunked = value.trim() == "chunked",
            _ => {}
        }
    }
    match head.length.is_some() != chunked {
        true => Ok(Some(head)),
        false => Err(strange("an answer of unknown length")),
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

fn strange(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn heads_are_read_when_they_are_whole() {
        let whole = b"HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\nabsent";
        assert_eq!(head(whole).unwrap(), Some(Head { status: 404, length: Some(5), bytes: 45 }));
        assert_eq!(head(&whole[..44]).unwrap(), None);
        let chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        assert_eq!(head(chunked).unwrap(), Some(Head { status: 200, length: None, bytes: chunked.len() }));
        for strange in ["HTTP/1.1 200 OK\r\nx: y\r\n\r\n", "what\r\n\r\n"] {
            assert!(head(strange.as_bytes()).is_err(), "{strange}");
        }
    }

    #[tokio::test]
    async fn answers_of_both_forms_follow_on_one_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = Client::new(listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1_024];
            for answer in [
                "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\none",
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\ntw\r\n1\r\no\r\n0\r\n\r\n",
                "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
            ] {
                assert!(stream.read(&mut request).await.unwrap() > 0);
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        assert_eq!(client.get("a".into()).await.unwrap(), Some(3));
        assert_eq!(client.get("a".into()).await.unwrap(), Some(3));
        assert_eq!(client.get("a".into()).await.unwrap(), None);
        server.await.unwrap();
    }
}
