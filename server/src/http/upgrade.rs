//! `GET /ws`.

use std::sync::Arc;

use axum::{
    extract::{FromRequestParts as _, Request, State, WebSocketUpgrade},
    http::header,
    response::Response,
};
use fulmar_core::{Code, Encoding, Problem};

use super::{App, problem::Failure, query::ReadQuery};
use crate::{
    admission::Admitted,
    hub::{Connection, Feed, Order},
    transport::{
        outlet::Outlet,
        websocket::{self, Format, subprotocol},
    },
};

pub(super) async fn websocket(State(app): State<Arc<App>>, request: Request) -> Result<Response, Failure> {
    let (mut parts, _) = request.into_parts();
    let query = ReadQuery::parse(&parts.uri)?;
    let encoding = encoding(parts.headers.get_all(header::SEC_WEBSOCKET_PROTOCOL))?;
    let format = Format { encoding, batches: query.batches };
    let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &())
        .await
        .map_err(|why| Problem::new(Code::BadRequest, format!("not a WebSocket handshake: {why}")))?;
    let connection = Connection::open(&app.hub)?;
    let feed = Feed::new(Order::Turns);
    let greeting = connection.subscribe_all(&feed.handle(), &query.channels, &query.after.clone()?)?;
    let tasks = app.tasks.clone();
    let admitted = parts.extensions.get::<Arc<Admitted>>().cloned();
    let outlet = parts.extensions.get::<Outlet>().cloned();
    Ok(websocket::bounded(upgrade)
        .protocols([subprotocol(Encoding::Json), subprotocol(Encoding::Binary)])
        .on_upgrade(move |socket| {
            tasks.track_future(async move {
                websocket::serve(socket, connection, feed, format, greeting, outlet).await;
                drop(admitted);
            })
        }))
}

/// The encoding of the first subprotocol that is spoken here; JSON when none is named.
fn encoding<'a>(offered: impl IntoIterator<Item = &'a axum::http::HeaderValue>) -> Result<Encoding, Problem> {
    let mut named = false;
    for value in offered {
        for name in value.to_str().unwrap_or("?").split(',').map(str::trim) {
            named = true;
            for encoding in [Encoding::Json, Encoding::Binary] {
                if name == subprotocol(encoding) {
                    return Ok(encoding);
                }
            }
        }
    }
    if named {
        return Err(Problem::new(
            Code::UnknownSubprotocol,
            "the subprotocols are fulmar.v1.json and fulmar.v1.bin; name one of them or none",
        ));
    }
    Ok(Encoding::Json)
}
