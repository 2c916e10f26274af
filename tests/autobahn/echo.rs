//! What the Autobahn suite tests: the server's listener and its WebSockets, which here give back what they are sent.

use std::{net::Ipv4Addr, sync::Arc};

use axum::{Router, extract::WebSocketUpgrade, routing::get};
use fulmar::{
    admission::{Admission, Caps},
    http::Sidecar,
    transport::websocket,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let sidecar = Sidecar::bind(([127, 0, 0, 1], 0).into())?;
    println!("ws://{}/", sidecar.address()?);
    let echo = async |upgrade: WebSocketUpgrade| websocket::bounded(upgrade).on_upgrade(websocket::echo);
    let router = Router::new().route("/", get(echo));
    let admission = Admission::new(Caps::of_listener(Ipv4Addr::LOCALHOST.into()), Arc::default());
    // Until the process is ended.
    sidecar.serve(router, None, admission, TaskTracker::new(), CancellationToken::new()).await;
    Ok(())
}
