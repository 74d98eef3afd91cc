//! A plain HTTP/1.1 client that does exactly what it is told, like sending all of a refused body.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// No answer takes this long.
pub const DEADLINE: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(given, _)| given == name).map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Checks that this is a problem document of `status` and `name`; returns its detail.
    #[track_caller]
    pub fn problem(&self, status: u16, name: &str) -> String {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.body));
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        let document = self.json();
        assert_eq!(document["type"], format!("/problems/{name}"), "{document}");
        assert_eq!(document["status"], status);
        assert!(document["title"].is_string());
        assert_eq!(self.header("retry-after").is_some(), matches!(status, 429 | 503));
        document["detail"].as_str().unwrap().to_owned()
    }
}

pub async fn get(to: SocketAddr, path: &str) -> Answer {
    send(to, "GET", path, &[], b"").await
}

pub async fn put(to: SocketAddr, path: &str, body: &[u8]) -> Answer {
    send(to, "PUT", path, &[], body).await
}

pub async fn post(to: SocketAddr, path: &str) -> Answer {
    send(to, "POST", path, &[], b"").await
}

/// One request on a connection of its own: sends everything, then reads everything.
pub async fn send(to: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    let mut connection = Connection::open(to).await;
    let mut all = vec![("connection", "close")];
    all.extend_from_slice(headers);
    connection.request(method, path, &all, body).await;
    connection.answer(method).await
}

pub struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Connection {
    pub async fn open(to: SocketAddr) -> Self {
        Self { stream: TcpStream::connect(to).await.unwrap(), received: Vec::new() }
    }

    pub async fn request(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) {
        let mut head = format!("{method} {path} HTTP/1.1\r\n");
        if !headers.iter().any(|(name, _)| *name == "host") {
            head.push_str("host: localhost\r\n");
        }
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let framed = headers.iter().any(|(name, _)| matches!(*name, "content-length" | "transfer-encoding"));
        if !framed && (!body.is_empty() || method != "GET") {
            head.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        self.write(head.as_bytes()).await;
        self.write(body).await;
    }

    pub async fn write(&mut self, bytes: &[u8]) {
        timeout(DEADLINE, self.stream.write_all(bytes)).await.expect("nobody reads").unwrap();
    }

    /// Reads until `pattern`, which is consumed; returns what came before it.
    pub async fn until(&mut self, pattern: &str) -> String {
        loop {
            let found = self.received.windows(pattern.len()).position(|window| window == pattern.as_bytes());
            if let Some(at) = found {
                let rest = self.received.split_off(at + pattern.len());
                let mut before = std::mem::replace(&mut self.received, rest);
                before.truncate(at);
                return String::from_utf8(before).unwrap();
            }
            assert!(
                self.more().await,
                "closed before {pattern:?}: {:?}",
                String::from_utf8_lossy(&self.received)
            );
        }
    }

    /// Reads until the connection is closed; returns the rest.
    pub async fn until_closed(&mut self) -> Vec<u8> {
        while self.more().await {}
        std::mem::take(&mut self.received)
    }

    pub async fn answer(&mut self, method: &str) -> Answer {
        let mut answer = self.head().await;
        self.body(method, &mut answer).await;
        answer
    }

    /// The answer up to its body.
    pub async fn head(&mut self) -> Answer {
        let head = self.until("\r\n\r\n").await;
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers: Vec<(String, String)> = lines
            .map(|line| line.split_once(':').unwrap())
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        Answer { status, headers, body: Vec::new() }
    }

    /// Reads the rest of an answer.
    pub async fn body(&mut self, method: &str, answer: &mut Answer) {
        if method == "HEAD" || matches!(answer.status, 100 | 304) {
            return;
        }
        if answer.header("transfer-encoding") == Some("chunked") {
            loop {
                let size = usize::from_str_radix(&self.until("\r\n").await, 16).unwrap();
                answer.body.extend(self.exactly(size).await);
                self.until("\r\n").await;
                if size == 0 {
                    return;
                }
            }
        }
        let length = answer.header("content-length").map(|length| length.parse().unwrap());
        answer.body = match length {
            Some(length) => self.exactly(length).await,
            None => self.until_closed().await,
        };
    }

    async fn exactly(&mut self, length: usize) -> Vec<u8> {
        while self.received.len() < length {
            assert!(self.more().await, "closed in the middle of an answer");
        }
        let rest = self.received.split_off(length);
        std::mem::replace(&mut self.received, rest)
    }

    async fn more(&mut self) -> bool {
        let read =
            timeout(DEADLINE, self.stream.read_buf(&mut self.received)).await.expect("no answer in time");
        read.unwrap() > 0
    }
}
