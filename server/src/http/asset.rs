//! Files that are part of the program.

use std::{
    borrow::Cow,
    hash::{DefaultHasher, Hasher as _},
    io::Write as _,
    sync::{Arc, OnceLock},
};

use axum::{
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};

/// A file that is served, whole or compressed.
#[derive(Clone, Debug)]
pub struct Asset {
    /// Where, beginning with `/`.
    pub path: Cow<'static, str>,
    /// As what.
    pub content_type: &'static str,
    /// What.
    pub body: Bytes,
}

/// An asset and its validators: a page asks each time, since the next server may have another, and mostly has it already.
#[derive(Clone, Debug)]
pub(super) struct Served {
    asset: Asset,
    tag: HeaderValue,
    /// Another, since strong validators tell bytes apart. RFC 9110, section 8.8.3.3.
    gzipped_tag: HeaderValue,
    /// Made for the first who takes it.
    gzipped: Arc<OnceLock<Bytes>>,
}

impl From<Asset> for Served {
    fn from(asset: Asset) -> Self {
        let mut hasher = DefaultHasher::new();
        hasher.write(&asset.body);
        let hash = u128::from(hasher.finish()) << 64 | asset.body.len() as u128;
        let tag = |end| {
            let tag = HeaderValue::try_from(format!("\"{hash:032x}{end}\""));
            tag.unwrap_or(HeaderValue::from_static("\"\""))
        };
        Self { tag: tag(""), gzipped_tag: tag("-gzip"), gzipped: Arc::default(), asset }
    }
}

impl Served {
    pub(super) fn answer(&self, request: &HeaderMap) -> Response {
        let gzipped = takes_gzip(request);
        let tag = if gzipped { &self.gzipped_tag } else { &self.tag };
        let head = [
            (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
            (header::ETAG, tag.clone()),
            (header::VARY, HeaderValue::from_static("accept-encoding")),
        ];
        if is_had(request, tag) {
            return (StatusCode::NOT_MODIFIED, head).into_response();
        }
        let more = [
            (header::CONTENT_TYPE, HeaderValue::from_static(self.asset.content_type)),
            (
                header::CONTENT_SECURITY_POLICY,
                // The page talks to this server only; WebTransport's port is another one, and so another source.
                HeaderValue::from_static(
                    "default-src 'self'; connect-src 'self' https: ws: wss:; frame-ancestors 'none'",
                ),
            ),
        ];
        if gzipped {
            let encoding = [(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"))];
            let body = self.gzipped.get_or_init(|| gzip(&self.asset.body));
            return (head, more, encoding, body.clone()).into_response();
        }
        (head, more, self.asset.body.clone()).into_response()
    }
}

/// RFC 9110, section 13.1.2.
fn is_had(request: &HeaderMap, tag: &HeaderValue) -> bool {
    items(request, header::IF_NONE_MATCH)
        .any(|item| item == "*" || item.strip_prefix("W/").unwrap_or(item).as_bytes() == tag.as_bytes())
}

/// Whether an answer may be compressed. RFC 9110, section 12.5.3.
fn takes_gzip(request: &HeaderMap) -> bool {
    items(request, header::ACCEPT_ENCODING).any(|item| {
        let (coding, weight) = item.split_once(';').unwrap_or((item, ""));
        let weight = weight.trim().strip_prefix("q=").map_or(Ok(1.0), str::parse::<f32>);
        coding.trim().eq_ignore_ascii_case("gzip") && weight.is_ok_and(|weight| weight > 0.0)
    })
}

/// What a field lists, in however many lines.
fn items(request: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let lines = request.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim)
}

fn gzip(body: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder
        .write_all(body)
        .and_then(|()| encoder.finish())
        .expect("memory takes what is written to it")
        .into()
}
