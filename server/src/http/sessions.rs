//! `POST /session`, `POST /session/ticket`, `POST /send`.

use std::sync::Arc;

use axum::{
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use fulmar_core::{Code, Problem, codec::json};
use serde_json::json;

use super::{App, api::is_key, problem::Failure};
use crate::limits;

pub(super) async fn create(State(app): State<Arc<App>>, headers: HeaderMap) -> Result<Response, Failure> {
    if let Ok(secret) = bearer(&headers)
        && !is_key(&app, secret)
    {
        let (id, resumed) = app.hub.ensure_session(secret)?;
        // Its owner has the secret; what is not said again cannot get into wrong hands.
        return Ok(json_response(json!({"id": id.to_string(), "resumed": resumed}).to_string()));
    }
    let (id, secret) = app.hub.create_session()?;
    Ok(json_response(json!({"id": id.to_string(), "secret": secret}).to_string()))
}

pub(super) async fn ticket(State(app): State<Arc<App>>, headers: HeaderMap) -> Result<Response, Failure> {
    let ticket = app.hub.issue_ticket(bearer(&headers)?)?;
    Ok(json_response(json!({"ticket": ticket}).to_string()))
}

pub(super) async fn send(State(app): State<Arc<App>>, request: Request) -> Result<Response, Failure> {
    let (parts, body) = request.into_parts();
    let secret = bearer(&parts.headers)?;
    let message = json::decode(&read_body(body).await?).map_err(|rejection| rejection.problem)?;
    let answer = app.hub.execute_for(secret, message).await?;
    Ok(json_response(json::encode(&answer)))
}

/// A response of JSON that is for its caller alone.
pub(super) fn json_response(body: impl Into<Body>) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    (headers, body.into()).into_response()
}

/// The token of `Authorization: Bearer`.
pub(super) fn bearer(headers: &HeaderMap) -> Result<&str, Problem> {
    let value = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    value
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim())
        .ok_or_else(|| Problem::new(Code::Unauthorized, "send Authorization: Bearer and the secret or key"))
}

/// A request's body, within its bound.
pub(super) async fn read_body(body: Body) -> Result<Bytes, Problem> {
    // The guard has taken it whole.
    to_bytes(body, limits::BODY_BYTES)
        .await
        .map_err(|_| Problem::new(Code::BadRequest, "the body ended early"))
}
