//! `GET /connect`: where each transport is, and how to trust it.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    extract::{Request, State},
    http::{HeaderValue, Uri, Version, header, uri::Authority},
    response::{IntoResponse, Response},
};
use serde_json::json;

use super::{App, problem::Failure, sessions::json_response};
use crate::{limits, tls::Certificates};

/// What clients are told of the server's addresses.
#[derive(Debug)]
pub struct Directory {
    /// Where QUIC is bound.
    pub quic: SocketAddr,
    /// Where the sidecar is bound.
    pub http: SocketAddr,
    /// Whether the sidecar speaks TLS.
    pub secure: bool,
    /// What QUIC's certificates are pinned by.
    pub certificates: Arc<Certificates>,
}

impl Directory {
    /// What a TLS sidecar says of HTTP/3: it is answered on QUIC's port, under the same name. RFC 7838. A plain sidecar has
    /// nothing to say, as an alternative needs a certificate for the name that it stands for.
    pub(super) fn alternative(&self) -> Option<HeaderValue> {
        let advertised = format!("h3=\":{}\"; ma={}", self.quic.port(), limits::ALTERNATIVE_AGE.as_secs());
        self.secure.then(|| HeaderValue::try_from(advertised).ok()).flatten()
    }
}

/// The module by which a client that this server serves knows the place without asking for it.
pub(super) const PLACE: &str = "/client/place.js";

pub(super) async fn connect(State(app): State<Arc<App>>, request: Request) -> Result<Response, Failure> {
    Ok(json_response(answer(&app.directory, &request)))
}

pub(super) async fn place(State(app): State<Arc<App>>, request: Request) -> Response {
    let headers =
        [(header::CONTENT_TYPE, "text/javascript; charset=utf-8"), (header::CACHE_CONTROL, "no-store")];
    (headers, format!("export default {};\n", answer(&app.directory, &request))).into_response()
}

fn answer(directory: &Directory, request: &Request) -> String {
    // The guard has seen to it that this is a name of ours.
    let mut authority = authority(request).unwrap_or_else(|| "localhost".to_owned());
    if request.version() == Version::HTTP_3 {
        // Asked by way of QUIC's port; the other transports are at the sidecar's.
        authority = format!("{}:{}", host_of(&authority), directory.http.port());
    }
    let (http, ws) = if directory.secure { ("https", "wss") } else { ("http", "ws") };
    let hashes: Vec<_> = directory
        .certificates
        .hashes()
        .into_iter()
        .map(|value| json!({"algorithm": "sha-256", "value": value}))
        .collect();
    let answer = json!({
        "webtransport": {
            // In this order whether or not `serde_json` keeps it: a client compares its guess with the text.
            "certificate_hashes": hashes,
            "url": format!("https://{}/wt", quic_authority(directory.quic, &authority)),
        },
        "websocket": {"url": format!("{ws}://{authority}/ws")},
        "sse": {"url": format!("{http}://{authority}/sse")},
        "poll": {"url": format!("{http}://{authority}/poll")},
    });
    answer.to_string()
}

fn authority(request: &Request) -> Option<String> {
    let of_uri = |uri: &Uri| uri.authority().map(|it| it.as_str().to_owned());
    let of_host = || Some(request.headers().get(header::HOST)?.to_str().ok()?.to_owned());
    of_uri(request.uri()).or_else(of_host)
}

/// QUIC's address as the client reaches it: a loopback address as it is bound, since `localhost` may mean another one;
/// else the name by which the client reached the sidecar, which is what the certificate is for.
fn quic_authority(quic: SocketAddr, authority: &str) -> String {
    if quic.ip().is_loopback() {
        return quic.to_string();
    }
    format!("{}:{}", host_of(authority), quic.port())
}

fn host_of(authority: &str) -> String {
    let host = authority.parse::<Authority>().map(|it| it.host().to_owned());
    host.unwrap_or_else(|_| "localhost".to_owned())
}
