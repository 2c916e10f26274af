//! A dashboard of one's own: embeds the server, publishes its own data, and serves its own page.
//!
//! ```text
//! cargo run --release --example dashboard
//! ```
//!
//! A fleet of delivery bikes rides about a town. Where each is goes to a state channel, one key a bike: of ten positions
//! a second a viewer needs only the newest, which is what a state channel gives on every transport. What they deliver goes to an
//! event channel, where nothing may be missed.

use std::{borrow::Cow, error::Error, f64::consts::TAU, sync::Arc, time::Duration};

use bytes::Bytes;
use fulmar::{config::Config, http::Asset, hub::Hub, node::Node};
use fulmar_core::{ChannelName, Draft, Key, Payload};
use serde_json::{Value, json};
use tokio::{signal, time};

const BIKES: usize = 24;
const INTERVAL: Duration = Duration::from_millis(100);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // Development mode: loopback only, a certificate made afresh, and channels open to every page of this server.
    let mut node = Node::bind(Config::development())?;
    for (path, content_type, body) in [
        ("/", "text/html; charset=utf-8", include_str!("index.html")),
        ("/dashboard.css", "text/css; charset=utf-8", include_str!("dashboard.css")),
        ("/dashboard.js", "text/javascript; charset=utf-8", include_str!("dashboard.js")),
    ] {
        let body = Bytes::from_static(body.as_bytes());
        node = node.with_asset(Asset { path: Cow::Borrowed(path), content_type, body });
    }
    let hub = node.hub().clone();
    println!("Open {}", node.url());
    node.run(async {
        tokio::select! {
            result = ride(hub) => if let Err(error) = result { eprintln!("the bikes stopped: {error}") },
            _ = signal::ctrl_c() => {}
        }
    })
    .await?;
    Ok(())
}

async fn ride(hub: Arc<Hub>) -> Result<(), Box<dyn Error>> {
    let (positions, deliveries) =
        (ChannelName::parse("state:bikes")?, ChannelName::parse("event:deliveries")?);
    let mut town = Town::new();
    let mut ticks = time::interval(INTERVAL);
    loop {
        ticks.tick().await;
        for bike in 0..BIKES {
            let (position, delivered) = town.ride(bike);
            let key = Key::parse(&format!("bike-{bike:02}"))?;
            hub.publish("town", positions.clone(), Draft::value(key, payload(&position)?)).await?;
            if let Some(delivered) = delivered {
                hub.publish("town", deliveries.clone(), Draft::new(payload(&delivered)?)).await?;
            }
        }
    }
}

fn payload(value: &Value) -> Result<Payload, serde_json::Error> {
    Payload::json(value.to_string().as_bytes())
}

struct Bike {
    at: (f64, f64),
    goal: (f64, f64),
    speed: f64,
}

/// A square kilometre of town.
struct Town {
    bikes: Vec<Bike>,
    random: u64,
    delivered: u64,
}

impl Town {
    fn new() -> Self {
        let mut it = Self { bikes: Vec::new(), random: 0x9e37_79b9_7f4a_7c15, delivered: 0 };
        for _ in 0..BIKES {
            let (at, goal, speed) = (it.place(), it.place(), 4.0 + 4.0 * it.chance());
            it.bikes.push(Bike { at, goal, speed });
        }
        it
    }

    /// Moves a bike on for one interval: where it is, and what it delivered.
    fn ride(&mut self, n: usize) -> (Value, Option<Value>) {
        let next = self.place();
        let Bike { at, goal, speed } = &mut self.bikes[n];
        let (x, y) = (goal.0 - at.0, goal.1 - at.1);
        // Twenty times as fast as life, or nobody would watch.
        let (left, step) = (x.hypot(y), *speed * 20.0 * INTERVAL.as_secs_f64());
        let arrived = left <= step;
        let share = if arrived { 1.0 } else { step / left };
        *at = (at.0 + x * share, at.1 + y * share);
        let heading = (y.atan2(x) / TAU).rem_euclid(1.0);
        let round = |value: f64| (value * 10.0).round() / 10.0;
        let position =
            json!({"x": round(at.0), "y": round(at.1), "heading": (heading * 1000.0).round() / 1000.0});
        let delivered = arrived.then(|| {
            *goal = next;
            self.delivered += 1;
            json!({"bike": format!("bike-{n:02}"), "parcel": self.delivered})
        });
        (position, delivered)
    }

    fn place(&mut self) -> (f64, f64) {
        (self.chance() * 1000.0, self.chance() * 1000.0)
    }

    /// From 0 to 1: xorshift, which is random enough for bikes.
    fn chance(&mut self) -> f64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) as f64 / (1u64 << 53) as f64
    }
}
