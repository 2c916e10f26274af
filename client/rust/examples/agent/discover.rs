//! `GET /connect`, over plain HTTP on loopback.

use std::io;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// Where WebTransport is, and the hashes of its certificates.
pub async fn discover(base: &str) -> io::Result<(String, Vec<[u8; 32]>)> {
    let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("GET {base}/connect: {what}"));
    let host = base.strip_prefix("http://").ok_or_else(|| bad("not plain HTTP"))?.trim_end_matches('/');
    let mut stream = TcpStream::connect(host).await?;
    let request = format!("GET /connect HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.take(1 << 16).read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| bad("no answer"))?;
    if !head.starts_with("HTTP/1.1 200 ") {
        return Err(bad(head));
    }
    let body: Value = serde_json::from_str(body).map_err(|why| bad(&why.to_string()))?;
    let webtransport = &body["webtransport"];
    let url = webtransport["url"].as_str().ok_or_else(|| bad("no WebTransport"))?;
    let hashes = webtransport["certificate_hashes"].as_array().into_iter().flatten();
    let hashes = hashes.map(|hash| STANDARD.decode(hash["value"].as_str()?).ok()?.try_into().ok());
    Ok((url.to_owned(), hashes.collect::<Option<_>>().ok_or_else(|| bad("not a SHA-256"))?))
}
