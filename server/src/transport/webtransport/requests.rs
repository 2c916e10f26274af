//! Requests on a QUIC connection: those for a session, and any other, which the sidecar's router answers.

use axum::{Router, body::Body};
use bytes::{Buf as _, Bytes};
use fulmar_core::{Code, Problem, codec::json};
use h3::{ext::Protocol, server::RequestStream};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use tokio::time;
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
    let mut origins = request.headers().get_all(header::ORIGIN).iter().map(|origin| origin.as_bytes());
    access.check(authority, origins.next())?;
    if origins.next().is_some() {
        return Err(Problem::new(Code::BadRequest, "origin is given twice"));
    }
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
    matches!(time::timeout(limits::HEADER_DEADLINE, stream.send_response(response)).await, Ok(Ok(())))
}

/// Answers with a problem. A browser tells its page nothing of it; other clients can read it.
pub(super) async fn refuse(mut stream: ConnectStream, problem: &Problem) {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(problem.code.http_status()).unwrap_or_default();
    response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    let answering = async {
        stream.send_response(response).await?;
        stream.send_data(json::encode_problem(problem)).await?;
        stream.finish().await
    };
    let _ = time::timeout(limits::HEADER_DEADLINE, answering).await;
}

/// Lets the router answer.
pub(super) async fn answer(request: Request<()>, mut stream: ConnectStream, mut router: Router) {
    let body = match time::timeout(limits::HEADER_DEADLINE, read_body(&mut stream)).await {
        Ok(Ok(body)) => body,
        // The client has given up, or takes too long.
        Ok(Err(Unread::Broken)) | Err(_) => return,
        Ok(Err(Unread::TooLong)) => {
            let message = format!("the body has more than {} bytes", limits::BODY_BYTES);
            return refuse(stream, &Problem::new(Code::MessageTooLarge, message)).await;
        }
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

enum Unread {
    TooLong,
    Broken,
}

async fn read_body<S>(stream: &mut RequestStream<S, Bytes>) -> Result<Bytes, Unread>
where
    S: h3::quic::RecvStream,
{
    let mut body = Vec::new();
    while let Some(mut data) = stream.recv_data().await.map_err(|_| Unread::Broken)? {
        if body.len() + data.remaining() > limits::BODY_BYTES {
            return Err(Unread::TooLong);
        }
        body.extend_from_slice(&data.copy_to_bytes(data.remaining()));
    }
    Ok(body.into())
}
