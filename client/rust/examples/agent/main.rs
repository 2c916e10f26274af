//! The agent of the parity tests: one JSON text a line, `{"n", "request"}` in, `{"n", "answer"}` out.
//! What it is asked stands in `tests/parity/agent.mjs`.

mod connection;
mod content;
mod discover;
mod held;

use std::{collections::HashMap, future::Future, num::NonZeroU8, pin::Pin, sync::Arc, time::Duration};

use connection::Held;
use fulmar_client::{
    Close, ConnectError, Connector, Cursor, Draft, Ended, Epoch, Key, Offset, Position, Positions,
    RequestError, Start, Trust, cursor_of,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, stdin, stdout},
    sync::{Mutex, mpsc},
    task::JoinSet,
};

use crate::connection::Connection;

/// An error as an answer has it.
struct Failure {
    code: String,
    message: String,
}

impl Failure {
    fn new(code: &str, message: impl ToString) -> Self {
        Self { code: code.to_owned(), message: message.to_string() }
    }

    fn bad(message: impl ToString) -> Self {
        Self::new("bad_request", message)
    }
}

impl From<RequestError> for Failure {
    fn from(error: RequestError) -> Self {
        match &error {
            RequestError::Refused(refusal) => Self::new(&refusal.code, &refusal.message),
            RequestError::Closed(_) | RequestError::StreamEnded => Self::new("closed", error),
        }
    }
}

impl From<Ended> for Failure {
    fn from(ended: Ended) -> Self {
        RequestError::from(ended).into()
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        Self::new("unreachable", error)
    }
}

type Answer = Result<Value, Failure>;

/// The connections by their ids, and a socket for each set of certificates.
#[derive(Default)]
struct Agent {
    connections: Mutex<HashMap<String, Arc<Connection>>>,
    connectors: Mutex<HashMap<Vec<[u8; 32]>, Connector>>,
}

impl Agent {
    fn run(self: Arc<Self>, request: Value) -> Pin<Box<dyn Future<Output = Answer> + Send>> {
        Box::pin(async move {
            match text(&request, "op")? {
                "all" => self.all(&request).await,
                "open" => self.open(&request).await,
                op => {
                    let connection = self.get(text(&request, "id")?).await?;
                    on(op, &connection, &request).await
                }
            }
        })
    }

    async fn all(self: &Arc<Self>, request: &Value) -> Answer {
        let requests = request["ops"].as_array().ok_or_else(|| Failure::bad("no ops"))?;
        let mut running = JoinSet::new();
        for (n, request) in requests.iter().cloned().enumerate() {
            let agent = self.clone();
            running.spawn(async move { (n, agent.run(request).await) });
        }
        let mut answers = vec![Value::Null; requests.len()];
        while let Some(done) = running.join_next().await {
            let (n, answer) = done.map_err(|why| Failure::new("failed", why))?;
            answers[n] = answer?;
        }
        Ok(answers.into())
    }

    async fn open(&self, request: &Value) -> Answer {
        if text(request, "transport")? != "webtransport" {
            return Err(Failure::new("unsupported", "this agent speaks WebTransport only"));
        }
        let (url, hashes) = discover::discover(text(request, "base")?)
            .await
            .map_err(|why| Failure::new("unreachable", why))?;
        let held = match request["continues"].as_str() {
            Some(id) => self.get(id).await?.held.clone(),
            None => Arc::new(Held::default()),
        };
        held.state().end = None;
        let connector = self.connector(hashes).await?;
        let connection = Arc::new(Connection::new(connector.connect(&url).await?, held));
        let start = start(request)?;
        let channels = request["channels"].as_array().into_iter().flatten();
        let mut subscribing = JoinSet::new();
        for name in channels {
            let (connection, start) = (connection.clone(), start.clone());
            let name = connection::channel(name.as_str().unwrap_or_default())?;
            subscribing.spawn(async move { connection.subscribe(&name, start).await });
        }
        while let Some(done) = subscribing.join_next().await {
            done.map_err(|why| Failure::new("failed", why))??;
        }
        self.connections.lock().await.insert(text(request, "id")?.to_owned(), connection);
        Ok(json!({}))
    }

    async fn connector(&self, hashes: Vec<[u8; 32]>) -> Result<Connector, Failure> {
        let mut connectors = self.connectors.lock().await;
        if let Some(connector) = connectors.get(&hashes) {
            return Ok(connector.clone());
        }
        let connector = Connector::new(&Trust::CertificateHashes(hashes.clone()))?;
        connectors.insert(hashes, connector.clone());
        Ok(connector)
    }

    async fn get(&self, id: &str) -> Result<Arc<Connection>, Failure> {
        let connection = self.connections.lock().await.get(id).cloned();
        connection.ok_or_else(|| Failure::bad(format!("no connection {id}")))
    }
}

/// Does what is asked of a connection.
async fn on(op: &str, connection: &Connection, request: &Value) -> Answer {
    let held = &connection.held;
    match op {
        "subscribe" => {
            connection.subscribe(&connection::channel(text(request, "channel")?)?, start(request)?).await?;
            Ok(json!({}))
        }
        "unsubscribe" => {
            connection.unsubscribe(&connection::channel(text(request, "channel")?)?).await?;
            Ok(json!({}))
        }
        "publish" => {
            let channel = connection::channel(text(request, "channel")?)?;
            let position = connection.client.publish(&channel, draft(request)?).await?;
            Ok(held::place(Some(&position)))
        }
        "attach" => {
            let positions = positions(&request["positions"])?;
            connection.attach(text(request, "session")?, text(request, "secret")?, positions).await?;
            Ok(json!({}))
        }
        "wait" => held.wait(text(request, "channel")?, &request["for"], patience(request)).await,
        "digest" => Ok(held.digest(text(request, "channel")?)),
        "kept" => Ok(held.kept(text(request, "channel")?)),
        "view" => Ok(held.values(text(request, "channel")?)),
        "cursor" => {
            let state = held.state();
            let positions = state.positions.iter().filter_map(|(name, at)| Some((name, at.as_ref()?)));
            Ok(json!({ "cursor": cursor_of(positions) }))
        }
        "close" => {
            let code = request["code"].as_u64().and_then(|code| u32::try_from(code).ok());
            connection.close(code.unwrap_or(Close::NORMAL), request["reason"].as_str().unwrap_or_default());
            Ok(json!({}))
        }
        "closed" => {
            let patience = patience(request);
            let Close { code, reason, .. } = tokio::time::timeout(patience, connection.client.closed())
                .await
                .map_err(|_| Failure::new("timeout", format!("waited {patience:?} in vain for the close")))?;
            Ok(json!({ "code": code, "reason": reason }))
        }
        _ => Err(Failure::bad(format!("no op {op}"))),
    }
}

fn text<'a>(request: &'a Value, member: &str) -> Result<&'a str, Failure> {
    request[member].as_str().ok_or_else(|| Failure::bad(format!("no {member} in {request}")))
}

fn patience(request: &Value) -> Duration {
    Duration::from_millis(request["timeout"].as_u64().unwrap_or(20_000))
}

fn start(request: &Value) -> Result<Start, Failure> {
    if let Some(cursor) = request["after"].as_str() {
        return Ok(Start::Cursor(Cursor::parse(cursor).map_err(Failure::bad)?));
    }
    match &request["position"] {
        Value::Null => Ok(Start::Afresh),
        at => position(at).map(Start::Position),
    }
}

fn position(at: &Value) -> Result<Position, Failure> {
    let epoch = Epoch::parse(text(at, "epoch")?).map_err(Failure::bad)?;
    let offset = at["offset"].as_u64().and_then(Offset::new).ok_or_else(|| Failure::bad("no offset"))?;
    Ok(Position { epoch, offset })
}

fn positions(places: &Value) -> Result<Option<Positions>, Failure> {
    let Some(places) = places.as_array() else { return Ok(None) };
    let mut positions = Positions::default();
    for place in places {
        let channel = connection::channel(text(place, "channel")?)?;
        positions.push(channel, position(place)?).map_err(Failure::bad)?;
    }
    Ok(Some(positions))
}

fn draft(request: &Value) -> Result<Draft, Failure> {
    let key = request["key"].as_str().map(Key::parse).transpose().map_err(Failure::bad)?.unwrap_or_default();
    let ttl = request["ttl_ms"].as_u64().map(Duration::from_millis);
    let priority = request["priority"].as_u64().and_then(|n| NonZeroU8::new(u8::try_from(n).ok()?));
    // `id` names the connection.
    Ok(Draft { key, id: None, payload: content::payload(request).map_err(Failure::bad)?, ttl, priority })
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let agent = Arc::new(Agent::default());
    let (answers, mut answered) = mpsc::channel::<Value>(64);
    let mut running = JoinSet::new();
    running.spawn(async move {
        let mut out = stdout();
        while let Some(answer) = answered.recv().await {
            if out.write_all(format!("{answer}\n").as_bytes()).await.is_err() || out.flush().await.is_err() {
                return;
            }
        }
    });
    let mut lines = BufReader::new(stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        let Ok(mut line) = serde_json::from_str::<Value>(&line) else {
            continue;
        };
        let (agent, answers) = (agent.clone(), answers.clone());
        running.spawn(async move {
            let answer = match agent.run(line["request"].take()).await {
                Ok(ok) => json!({ "ok": ok }),
                Err(Failure { code, message }) => json!({ "error": { "code": code, "message": message } }),
            };
            let _ = answers.send(json!({ "n": line["n"], "answer": answer })).await;
        });
        while running.try_join_next().is_some() {}
    }
    Ok(())
}
