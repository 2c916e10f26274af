//! The HTTP contract: PROTOCOL.md, sections 6 and 7. One router, whatever version of HTTP brought the request.

mod api;
mod asset;
mod connect;
mod guard;
mod problem;
mod query;
mod read;
mod serve;
mod sessions;
mod upgrade;

use std::{collections::HashMap, fmt, sync::Arc};

use axum::{
    Router,
    extract::State,
    http::HeaderMap,
    middleware,
    routing::{any, get, post},
};
use fulmar_core::{Code, Problem};
use tokio_util::task::TaskTracker;

pub use self::{asset::Asset, connect::Directory, serve::Sidecar};
use self::{asset::Served, problem::Failure};
use crate::{access::Access, hub::Hub};

/// A key to `/api/*`. Never printed by `Debug`.
#[derive(Clone)]
pub struct ApiKey(pub String);

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(..)")
    }
}

/// Who may use `/api/*`.
#[derive(Clone, Debug)]
pub enum ApiAccess {
    /// Anyone who reaches it: development mode.
    Open,
    /// Nobody.
    Closed,
    /// Whoever has this key.
    Key(ApiKey),
}

/// What the routes need.
#[derive(Debug)]
pub struct App {
    /// Channels and sessions.
    pub hub: Arc<Hub>,
    /// Who may call.
    pub access: Access,
    /// Who may use `/api/*`.
    pub api: ApiAccess,
    /// What `/connect` says.
    pub directory: Directory,
    /// Owns the tasks of upgraded connections.
    pub tasks: TaskTracker,
}

/// The routes.
pub fn router(app: Arc<App>, assets: Vec<Asset>) -> Router {
    let mut router = Router::new()
        .route("/connect", get(connect::connect))
        // Any method: HTTP/2 upgrades by CONNECT.
        .route("/ws", any(upgrade::websocket))
        .route("/sse", get(read::sse))
        .route("/poll", get(read::poll))
        .route("/session", post(sessions::create))
        .route("/session/ticket", post(sessions::ticket))
        .route("/send", post(sessions::send))
        .route("/api/publish", post(api::publish))
        .route("/api/stats", get(api::stats))
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(ready));
    // Of two assets with one path the later one stands.
    let assets: HashMap<_, _> = assets.into_iter().map(|asset| (asset.path.clone(), asset)).collect();
    for (path, asset) in assets {
        let served = if path == connect::PLACE {
            get(connect::place)
        } else {
            let served = Served::from(asset);
            get(async move |headers: HeaderMap| served.answer(&headers))
        };
        router = router.route(&path, served);
    }
    router
        .fallback(|| async { Failure::from(Problem::new(Code::NotFound, "nothing is here")) })
        .method_not_allowed_fallback(|| async {
            Failure::from(Problem::new(Code::MethodNotAllowed, "this route takes another method"))
        })
        .layer(middleware::from_fn_with_state(app.clone(), guard::guard))
        .with_state(app)
}

async fn ready(State(app): State<Arc<App>>) -> Result<&'static str, Failure> {
    if app.hub.is_stopping() {
        return Err(Problem::new(Code::ShuttingDown, "the server is stopping").into());
    }
    Ok("ok")
}
