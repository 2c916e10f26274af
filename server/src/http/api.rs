//! `/api/*`: for operators.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::HeaderMap,
    response::Response,
};
use fulmar_core::{Code, Problem, codec::json};
use serde_json::{Map, Value, json};
use tokio::runtime::Handle;

use super::{
    ApiAccess, App,
    problem::Failure,
    sessions::{bearer, json_response, read_body},
};

/// The scope of publication ids of this API.
const PUBLISHER: &str = "api";

pub(super) async fn publish(State(app): State<Arc<App>>, request: Request) -> Result<Response, Failure> {
    let (channel, draft) = json::decode_publish(&read_body(request.into_body()).await?)?;
    let position = app.hub.publish(PUBLISHER, channel, draft).await?;
    let answer = json!({"epoch": position.epoch.as_str(), "offset": position.offset.get()});
    Ok(json_response(answer.to_string()))
}

pub(super) async fn stats(State(app): State<Arc<App>>) -> Result<Response, Failure> {
    let (sessions, channels, bytes) = app.hub.census();
    let mut all = Map::new();
    all.insert("sessions".to_owned(), sessions.into());
    all.insert("detached_subscriptions".to_owned(), app.hub.detached_subscriptions().into());
    all.insert("channels".to_owned(), channels.into());
    all.insert("channel_bytes".to_owned(), bytes.into());
    all.insert("tasks".to_owned(), Handle::current().metrics().num_alive_tasks().into());
    all.extend(app.hub.counters().all().map(|(name, value)| (name.to_owned(), value.into())));
    Ok(json_response(Value::Object(all).to_string()))
}

/// Whether a request may use `/api/*`; the guard asks for every one of them.
pub(super) fn authorize(app: &App, headers: &HeaderMap) -> Result<(), Problem> {
    match &app.api {
        ApiAccess::Open => Ok(()),
        ApiAccess::Closed => Err(Problem::new(
            Code::NoKeyConfigured,
            "the API is closed; set api.key_file in the configuration to open it",
        )),
        ApiAccess::Key(_) if is_key(app, bearer(headers)?) => Ok(()),
        ApiAccess::Key(_) => Err(Problem::new(Code::Unauthorized, "that is not the API key")),
    }
}

/// Whether a bearer is the API key.
pub(super) fn is_key(app: &App, bearer: &str) -> bool {
    matches!(&app.api, ApiAccess::Key(key) if fulmar_core::secrets_match(&key.0, bearer))
}
