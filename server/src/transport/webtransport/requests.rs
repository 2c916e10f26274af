//! Requests on a QUIC connection: those for a session, and any other, which the sidecar's router answers.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::{Router, body::Body};
use bytes::{Buf as _, Bytes};
use fulmar_core::{Code, Problem, codec::json};
use h3::{
    error::{Code as Http3Code, StreamError},
    ext::Protocol,
    server,
};
use http::{HeaderName, Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::body::Frame;
use tokio::time;
use tower_service::Service as _;

use super::backend::{BidiStream, RecvStream, SendStream};
use crate::{access::Access, budget::Budgets, limits};

/// A request's stream, both ways.
pub(super) type RequestStream = server::RequestStream<BidiStream<Bytes>, Bytes>;
/// What is sent on it.
pub(super) type ResponseSender = server::RequestStream<SendStream<Bytes>, Bytes>;
/// What is received on it.
pub(super) type BodyReceiver = server::RequestStream<RecvStream, Bytes>;

/// Fields of a connection, which have no place in HTTP/3.
const CONNECTION_FIELDS: [HeaderName; 5] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// Waits until a client wants no answer any more.
pub(super) type Stopped = Pin<Box<dyn Future<Output = ()> + Send + Sync>>;

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

/// Whether the client promises that its control stream begins with an `attach`, for which the other streams are to wait.
pub(super) fn attaches(request: &Request<()>) -> bool {
    let mut names = request.uri().query().unwrap_or_default().split('&').map(|pair| pair.split('=').next());
    names.any(|name| name == Some("attach"))
}

/// Answers with a problem. A browser tells its page nothing of it; other clients can read it.
pub(super) async fn refuse(mut stream: RequestStream, problem: &Problem) {
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

/// Lets the router answer. Bodies flow both ways as they come; `budgets` bounds what is kept of them.
pub(super) async fn answer(
    request: Request<()>,
    stream: RequestStream,
    stopped: Stopped,
    router: Router,
    budgets: Budgets,
) {
    tokio::select! {
        () = exchange(request, stream, router, budgets) => {}
        // A silent answer would notice it at its next word only.
        () = stopped => {}
    }
}

async fn exchange(request: Request<()>, stream: RequestStream, mut router: Router, budgets: Budgets) {
    let (mut send, recv) = stream.split();
    if CONNECTION_FIELDS.iter().any(|name| request.headers().contains_key(name)) {
        // Such a request is malformed. RFC 9114, section 4.2.
        send.stop_stream(Http3Code::H3_MESSAGE_ERROR);
        return;
    }
    let mut request = request.map(|()| Body::new(RequestBody { recv, ended: false }));
    request.extensions_mut().insert(budgets);
    let Ok(response) = router.call(request).await;
    let (mut parts, mut body) = response.into_parts();
    for name in &CONNECTION_FIELDS {
        parts.headers.remove(name);
    }
    if send.send_response(Response::from_parts(parts, ())).await.is_err() {
        return;
    }
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            send.stop_stream(Http3Code::H3_INTERNAL_ERROR);
            return;
        };
        let Ok(data) = frame.into_data() else { continue };
        if send.send_data(data).await.is_err() {
            return;
        }
    }
    let _ = send.finish().await;
}

/// A request's body as it comes.
struct RequestBody {
    recv: BodyReceiver,
    ended: bool,
}

impl hyper::body::Body for RequestBody {
    type Data = Bytes;
    type Error = StreamError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let received = ready!(self.recv.poll_recv_data(cx))
            .map(|data| data.map(|mut data| data.copy_to_bytes(data.remaining())));
        self.ended = !matches!(received, Ok(Some(_)));
        Poll::Ready(received.transpose().map(|data| data.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if !self.ended {
            // The answer does not depend on the rest. RFC 9114, section 4.1.
            self.recv.stop_sending(Http3Code::H3_NO_ERROR);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attach_is_promised_by_its_name_in_the_query() {
        let asked = |uri: &str| attaches(&Request::get(uri).body(()).expect("a request"));
        for promised in ["/wt?attach", "/wt?attach=", "/wt?x=1&attach", "/wt?attach=1&x"] {
            assert!(asked(promised), "{promised}");
        }
        for silent in ["/wt", "/wt?", "/wt?attached", "/wt?x=attach", "/wt?Attach", "/attach"] {
            assert!(!asked(silent), "{silent}");
        }
    }
}
