//! What the connections of an agent have received, and waiting for it.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use fulmar_client::{ChannelName, Close, Event, Key, Position, Publication, StateView};
use serde_json::{Map, Value, json};
use tokio::{sync::Notify, time::timeout};

use crate::{Failure, content, content::Checksum};

const KEPT: usize = 200;

/// What was received over a connection, and those that it continues.
#[derive(Default)]
pub struct Held {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
pub struct State {
    channels: HashMap<String, Channel>,
    /// Where each channel is to be read on; nothing within a snapshot.
    pub positions: BTreeMap<ChannelName, Option<Position>>,
    pub end: Option<Close>,
}

#[derive(Default)]
struct Channel {
    count: u64,
    first: Option<Position>,
    last: Option<Position>,
    unordered: bool,
    checksum: Checksum,
    controls: Vec<&'static str>,
    removals: HashSet<String>,
    kept: VecDeque<Value>,
    view: StateView,
}

impl Channel {
    fn publication(&mut self, publication: &Publication) {
        let Publication { epoch, offset, key, payload, .. } = publication;
        let here = Position { epoch: epoch.clone(), offset: *offset };
        if self.last.as_ref().is_some_and(|last| last.epoch != here.epoch || last.offset >= here.offset) {
            self.unordered = true;
        }
        self.first.get_or_insert_with(|| here.clone());
        self.last = Some(here);
        self.count += 1;
        self.checksum.add(payload.as_ref());
        let place = json!({ "epoch": epoch.as_str(), "offset": offset.get(), "key": key.as_str() });
        let mut kept = content_of(&place);
        match payload {
            Some(payload) => kept.extend(content::content(payload)),
            None => {
                self.removals.insert(key.as_str().to_owned());
                kept.insert("removed".to_owned(), json!(true));
            }
        }
        if self.kept.len() == KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back(kept.into());
    }

    fn digest(&self) -> Value {
        json!({
            "count": self.count, "first": place(self.first.as_ref()), "last": place(self.last.as_ref()),
            "ordered": !self.unordered, "checksum": self.checksum.0, "controls": self.controls,
        })
    }

    fn values(&self) -> Value {
        let values = self.view.iter().filter_map(|(key, value)| {
            Some((key.as_str().to_owned(), content::content(value.payload.as_ref()?).into()))
        });
        json!({ "synced": self.view.is_synced(), "values": Map::from_iter(values) })
    }

    fn meets(&self, wanted: &Value) -> Result<bool, Failure> {
        let holds = |name: &Value| {
            let key = Key::parse(name.as_str().unwrap_or_default()).unwrap_or_default();
            self.view.get(&key).map(content::content)
        };
        Ok(if let Some(publications) = wanted["publications"].as_u64() {
            self.count >= publications
        } else if let Some(control) = wanted["control"].as_str() {
            self.controls.contains(&control)
        } else if wanted.get("synced").is_some() {
            self.view.is_synced()
        } else if let Some(key) = wanted.get("key") {
            let data = holds(key).and_then(|content| content.get("data").map(content::stringify));
            data.is_some_and(|data| wanted.get("data").map(content::stringify) == Some(data))
        } else if let Some(key) = wanted["removal"].as_str() {
            self.removals.contains(key)
        } else if let Some(key) = wanted.get("gone") {
            holds(key).is_none()
        } else {
            return Err(Failure::new("bad_request", format!("nothing can be waited for by {wanted}")));
        })
    }
}

fn content_of(value: &Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap_or_default()
}

pub fn place(position: Option<&Position>) -> Value {
    match position {
        Some(Position { epoch, offset }) => json!({ "epoch": epoch.as_str(), "offset": offset.get() }),
        None => Value::Null,
    }
}

impl Held {
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an event, or none, after which the channel is to be read on from `position`.
    pub fn take(&self, name: &ChannelName, event: Option<Event>, position: Option<Position>) {
        let mut state = self.state();
        state.positions.insert(name.clone(), position);
        let Some(event) = event else { return };
        let channel = state.channels.entry(name.as_str().to_owned()).or_default();
        match &event {
            Event::Publication(publication) => channel.publication(publication),
            Event::Gap(_) => channel.controls.push("gap"),
            Event::Reset(_) => channel.controls.push("reset"),
            Event::Synced(_) => channel.controls.push("synced"),
        }
        channel.view.apply(event);
        drop(state);
        self.changed.notify_waiters();
    }

    pub fn end(&self, close: Close) {
        self.state().end = Some(close);
        self.changed.notify_waiters();
    }

    pub fn digest(&self, name: &str) -> Value {
        self.state().channels.entry(name.to_owned()).or_default().digest()
    }

    pub fn kept(&self, name: &str) -> Value {
        self.state().channels.get(name).map_or_else(|| json!([]), |channel| json!(channel.kept))
    }

    pub fn values(&self, name: &str) -> Value {
        self.state().channels.entry(name.to_owned()).or_default().values()
    }

    /// Waits until something is so.
    pub async fn wait(&self, name: &str, wanted: &Value, patience: Duration) -> Result<Value, Failure> {
        let met = async {
            loop {
                let changed = self.changed.notified();
                {
                    let mut state = self.state();
                    if state.channels.entry(name.to_owned()).or_default().meets(wanted)? {
                        return Ok(json!({}));
                    }
                    if let Some(close) = &state.end {
                        let why = format!("{close} while waiting for {wanted} of {name}");
                        return Err(Failure::new("closed", why));
                    }
                }
                changed.await;
            }
        };
        timeout(patience, met).await.unwrap_or_else(|_| {
            let so: String =
                format!("{} {}", self.digest(name), self.values(name)).chars().take(500).collect();
            let what = format!("waited {patience:?} in vain for {wanted} of {name}; so far {so}");
            Err(Failure::new("timeout", what))
        })
    }
}
