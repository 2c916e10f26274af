//! As much of an HTTP/1.1 client as the trial needs.

use std::net::SocketAddr;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::Broken;
use crate::bench::trial::limits;

/// A connection on which requests are answered one after another.
#[derive(Debug)]
pub(super) struct Http {
    stream: TcpStream,
    host: SocketAddr,
    buffer: BytesMut,
}

/// How long an answer's body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Length {
    Bytes(usize),
    Chunked,
}

impl Http {
    pub(super) fn over(stream: TcpStream, host: SocketAddr) -> Self {
        Self { stream, host, buffer: BytesMut::new() }
    }

    /// Asks for something.
    pub(super) async fn get(&mut self, target: &str, headers: &str) -> Result<(), Broken> {
        let request = format!("GET {target} HTTP/1.1\r\nHost: {}\r\n{headers}\r\n", self.host);
        Ok(self.stream.write_all(request.as_bytes()).await?)
    }

    /// Posts an empty object, as the owner of a secret, and gives what is answered.
    pub(super) async fn post(&mut self, target: &str, secret: Option<&str>) -> Result<Bytes, Broken> {
        let bearer = secret.map_or(String::new(), |it| format!("Authorization: Bearer {it}\r\n"));
        let request = format!(
            "POST {target} HTTP/1.1\r\nHost: {}\r\n{bearer}Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{{}}",
            self.host
        );
        self.stream.write_all(request.as_bytes()).await?;
        self.answer().await
    }

    /// The whole answer to a request. One that is not 200 is an error.
    pub(super) async fn answer(&mut self) -> Result<Bytes, Broken> {
        let (status, length) = self.head().await?;
        let mut body = BytesMut::new();
        match length {
            Length::Bytes(length) => body = self.take(length).await?,
            Length::Chunked => {
                while let Some(chunk) = self.chunk().await? {
                    body.extend_from_slice(&chunk);
                    within(body.len(), limits::BODY_BYTES)?;
                }
            }
        }
        if status != 200 {
            return Err(Broken::wrong(format_args!("{status}: {}", String::from_utf8_lossy(&body))));
        }
        Ok(body.freeze())
    }

    /// The status of an answer, and how long its body is.
    pub(super) async fn head(&mut self) -> Result<(u16, Length), Broken> {
        let head = self.line_end(b"\r\n\r\n", limits::HEAD_BYTES).await?;
        let head = self.take(head).await?;
        let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
        let mut lines = head.lines();
        let status = lines.next().and_then(|it| it.split(' ').nth(1)?.parse().ok());
        let header = |name: &str| lines.clone().find_map(|it| it.strip_prefix(name)?.strip_prefix(':'));
        let length = match header("content-length") {
            Some(length) => Length::Bytes(length.trim().parse().map_err(Broken::wrong)?),
            None if header("transfer-encoding").is_some_and(|it| it.trim() == "chunked") => Length::Chunked,
            None => Length::Bytes(0),
        };
        Ok((status.ok_or_else(|| Broken::wrong("an answer without a status"))?, length))
    }

    /// The next chunk of a body; `None` at its end.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, Broken> {
        let end = self.line_end(b"\r\n", limits::HEAD_BYTES).await?;
        let line = self.take(end).await?;
        let length =
            usize::from_str_radix(String::from_utf8_lossy(&line).trim(), 16).map_err(Broken::wrong)?;
        within(length, limits::BODY_BYTES)?;
        let mut chunk = self.take(length + 2).await?;
        chunk.truncate(length);
        Ok((length > 0).then(|| chunk.freeze()))
    }

    /// Where the first end of this kind ends.
    async fn line_end(&mut self, end: &[u8], most: usize) -> Result<usize, Broken> {
        loop {
            if let Some(at) = self.buffer.windows(end.len()).position(|it| it == end) {
                return Ok(at + end.len());
            }
            within(self.buffer.len(), most)?;
            self.read().await?;
        }
    }

    async fn take(&mut self, length: usize) -> Result<BytesMut, Broken> {
        within(length, limits::BODY_BYTES + 2)?;
        while self.buffer.remaining() < length {
            self.read().await?;
        }
        Ok(self.buffer.split_to(length))
    }

    async fn read(&mut self) -> Result<(), Broken> {
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(Broken::ended("the server ended the connection")),
            _ => Ok(()),
        }
    }
}

fn within(length: usize, most: usize) -> Result<(), Broken> {
    if length > most {
        return Err(Broken::wrong(format_args!("an answer has a part of {length} bytes, above {most}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::net::TcpListener;

    use super::*;

    /// What a client makes of these answers; each piece is written by itself.
    async fn answered(pieces: &[&str]) -> Http {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let stream = TcpStream::connect(address).await.expect("connected");
        let (mut server, _) = listener.accept().await.expect("accepted");
        for piece in pieces {
            server.write_all(piece.as_bytes()).await.expect("written");
        }
        Http::over(stream, address)
    }

    #[tokio::test]
    async fn answers_follow_each_other() {
        let mut http = answered(&[
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nabHTTP/1.1 200 OK\r\nTransfer-",
            "Encoding: chunked\r\n\r\n3\r\ncd",
            "e\r\nB\r\n0123456789f\r\n0\r\n\r\nHTTP/1.1 401 No\r\nContent-Length: 3\r\n\r\nwhy",
        ])
        .await;
        assert_eq!(http.answer().await.expect("an answer"), "ab");
        assert_eq!(http.answer().await.expect("an answer"), "cde0123456789f");
        let refused = http.answer().await.expect_err("not 200");
        assert_eq!(refused, Broken::Wrong("401: why".to_owned()));
        assert!(matches!(http.answer().await, Err(Broken::Ended(_))), "the connection has ended");
    }

    #[tokio::test]
    async fn what_is_too_long_is_refused() {
        let long = "x".repeat(limits::HEAD_BYTES + 1);
        assert!(answered(&["HTTP/1.1 200 OK\r\n", &long]).await.head().await.is_err());
        assert!(answered(&["ffffffff\r\n"]).await.chunk().await.is_err());
        assert!(
            answered(&["HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n"]).await.answer().await.is_err()
        );
    }
}
