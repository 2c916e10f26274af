//! Files that are part of the program.

use std::{
    borrow::Cow,
    hash::{DefaultHasher, Hasher as _},
};

use axum::{
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;

/// A file that is served as it is.
#[derive(Clone, Debug)]
pub struct Asset {
    /// Where, beginning with `/`.
    pub path: Cow<'static, str>,
    /// As what.
    pub content_type: &'static str,
    /// What.
    pub body: Bytes,
}

/// An asset and its validator: a page asks each time, since the next server may have another, and mostly has it already.
#[derive(Clone, Debug)]
pub(super) struct Served {
    asset: Asset,
    tag: HeaderValue,
}

impl From<Asset> for Served {
    fn from(asset: Asset) -> Self {
        let mut hasher = DefaultHasher::new();
        hasher.write(&asset.body);
        let hash = u128::from(hasher.finish()) << 64 | asset.body.len() as u128;
        let tag = HeaderValue::try_from(format!("\"{hash:032x}\""));
        Self { tag: tag.unwrap_or(HeaderValue::from_static("\"\"")), asset }
    }
}

impl Served {
    pub(super) fn answer(&self, request: &HeaderMap) -> Response {
        let head =
            [(header::CACHE_CONTROL, HeaderValue::from_static("no-cache")), (header::ETAG, self.tag.clone())];
        if self.is_had(request) {
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
        (head, more, self.asset.body.clone()).into_response()
    }

    /// RFC 9110, section 13.1.2.
    fn is_had(&self, request: &HeaderMap) -> bool {
        let listed = request.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
        let mut tags = listed.flat_map(|list| list.split(',')).map(str::trim);
        tags.any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag).as_bytes() == self.tag.as_bytes())
    }
}
