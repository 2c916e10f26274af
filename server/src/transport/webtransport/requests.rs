//! Requests on a QUIC connection: those for a session, and any other, which the sidecar's router answers.

use axum::{Router, body::Body};
use bytes::{Buf as _, Bytes};
use fulmar_core::{Code, Problem, codec::json};
use h3::{ext::Protocol, server::RequestStream};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use tower_service::Service as _;

use super::session::ConnectStream;
use crate::{access::Access, limits};

/// Whether a request asks for a session.
pub(super) fn is_session(request: &Request<()>) -> bool {
    request.method() == Method::CONNECT
        && request.extensions().get::<Protocol>() == Some(&Protocol::WEB_TRANSPORT)
}

/// Whether a session may be had here.
pub(super) fn check(request: &Request<()>, access: &Access) -> Result<(), Problem> {
    let authority = request.uri().authority().map(|it| it.as_str());
    let origin = request.headers().get(header::ORIGIN).map(|origin| origin.as_bytes());
    access.check(authority, origin)?;
    if request.uri().path() != "/wt" {
        return Err(Problem::new(Code::NotFound, "sessions are at /wt"));
    }
    Ok(())
}

/// Accepts a session.
pub(super) async fn accept(stream: &mut ConnectStream) -> bool {
    let mut response = Response::new(());
    // The version of the draft, which Chromium looks for.
    response.headers_mut().insert("sec-webtransport-http3-draft", http::HeaderValue::from_static("draft02"));
    stream.send_response(response).await.is_ok()
}

/// Answers with a problem. A browser tells its page nothing of it; other clients can read it.
pub(super) async fn refuse(mut stream: ConnectStream, problem: &Problem) {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(problem.code.http_status()).unwrap_or_default();
    response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    if stream.send_response(response).await.is_ok()
        && stream.send_data(json::encode_problem(problem)).await.is_ok()
    {
        let _ = stream.finish().await;
    }
}

/// Lets the router answer.
pub(super) async fn answer(request: Request<()>, mut stream: ConnectStream, mut router: Router) {
    let Some(body) = read_body(&mut stream).await else {
        let message = format!("the body has more than {} bytes", limits::BODY_BYTES);
        return refuse(stream, &Problem::new(Code::MessageTooLarge, message)).await;
    };
    let Ok(response) = router.call(request.map(|()| Body::from(body))).await;
    let (mut parts, mut body) = response.into_parts();
    // Headers of a connection have no place in HTTP/3. RFC 9114, section 4.2.
    for name in [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE] {
        parts.headers.remove(name);
    }
    if stream.send_response(Response::from_parts(parts, ())).await.is_err() {
        return;
    }
    while let Some(Ok(frame)) = body.frame().await {
        let Ok(data) = frame.into_data() else { continue };
        if stream.send_data(data).await.is_err() {
            return;
        }
    }
    let _ = stream.finish().await;
}

async fn read_body<S>(stream: &mut RequestStream<S, Bytes>) -> Option<Bytes>
where
    S: h3::quic::RecvStream,
{
    let mut body = Vec::new();
    while let Ok(Some(mut data)) = stream.recv_data().await {
        if body.len() + data.remaining() > limits::BODY_BYTES {
            return None;
        }
        body.extend_from_slice(&data.copy_to_bytes(data.remaining()));
    }
    Some(body.into())
}
