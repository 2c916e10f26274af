//! `GET /sse` and `GET /poll`.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use fulmar_core::{Code, Cursor, Problem, limits as core_limits};

use super::{App, problem::Failure, query::ReadQuery};
use crate::{
    budget::Budgets,
    hub::{Connection, CursorRequest, Feed, Order},
    transport::{outlet::Outlet, poll as polling, sse::EventStream},
};

pub(super) async fn sse(State(app): State<Arc<App>>, request: Request) -> Result<Response, Failure> {
    let outlet = request.extensions().get::<Outlet>().cloned();
    let query = ReadQuery::parse(request.uri())?;
    query.require_channels()?;
    let last = request.headers().get("last-event-id").filter(|id| !id.is_empty());
    let request = if let Some(last) = last {
        // A non-200 would end the EventSource for good, so what cannot be used is answered in the stream.
        let cursor = last.to_str().ok().and_then(|id| Cursor::parse(id).ok());
        let cursor = cursor.and_then(|cursor| query.names_one(cursor).ok());
        cursor.map_or(CursorRequest::Unusable, CursorRequest::After)
    } else {
        query.after.clone()?
    };
    let (connection, feed) = match open(&app, &query, &request) {
        // The EventSource repeats its URL, and with it a ticket that was used: it should not come back.
        Err(problem) if problem.code == Code::BadTicket && last.is_some() => {
            return Ok(StatusCode::NO_CONTENT.into_response());
        }
        opened => opened?,
    };
    let stream = EventStream::open(connection, feed, &query.channels, &request, outlet)?;
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (header::HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    Ok((headers, Body::from_stream(stream.into_body())).into_response())
}

pub(super) async fn poll(State(app): State<Arc<App>>, request: Request) -> Result<Response, Failure> {
    let budget = request.extensions().get::<Budgets>().map(|budgets| budgets.answers.clone());
    let query = ReadQuery::parse(request.uri())?;
    query.require_channels()?;
    let request = query.after.clone()?;
    let (connection, feed) = open(&app, &query, &request)?;
    let answer = polling::answer(connection, feed, &query.channels, &request, query.wait, budget).await?;
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    Ok((headers, Body::from(answer)).into_response())
}

fn open(app: &App, query: &ReadQuery, request: &CursorRequest) -> Result<(Connection, Feed), Problem> {
    let feed = Feed::new(Order::SnapshotsWhole);
    let connection = match &query.ticket {
        Some(ticket) => Connection::open_by_ticket(&app.hub, ticket, &feed)?,
        None => Connection::open(&app.hub)?,
    };
    connection.seek(request);
    let brought = connection.positions().len();
    if brought > core_limits::CURSOR_CHANNELS {
        let message = format!(
            "the session has {brought} subscriptions, and SSE and polling read at most {}; unsubscribe from some",
            core_limits::CURSOR_CHANNELS
        );
        return Err(Problem::new(Code::TooManyChannels, message));
    }
    Ok((connection, feed))
}
