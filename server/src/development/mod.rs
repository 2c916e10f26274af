//! What only development mode has: this machine's figures, live.

mod figures;

use std::{sync::Arc, time::Duration};

use fulmar_core::{ChannelName, Draft, Key, Payload};
use tokio::time::{self, MissedTickBehavior};

use self::figures::{Figure, Sampler};
use crate::hub::Hub;

/// How often the figures are published.
const INTERVAL: Duration = Duration::from_millis(100);

/// Publishes the figures for ever: values to the state channels of `host`, notable changes to `event:host`.
pub(crate) async fn publish_figures(hub: Arc<Hub>) {
    let mut sampler = match Sampler::new() {
        Ok(sampler) => Some(sampler),
        Err(error) => {
            tracing::warn!(%error, "this machine's figures cannot be read; the page will show none");
            return;
        }
    };
    let mut ticks = time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        let Some(mut taken) = sampler.take() else { return };
        // Reading /proc blocks, if only for a moment.
        let sampled = tokio::task::spawn_blocking(move || {
            let figures = taken.sample(INTERVAL);
            (taken, figures)
        });
        let Ok((back, figures)) = sampled.await else {
            return;
        };
        sampler = Some(back);
        for figure in figures {
            publish(&hub, figure).await;
        }
    }
}

async fn publish(hub: &Hub, figure: Figure) {
    let Figure { channel, key, value } = figure;
    let Ok(channel) = ChannelName::parse(channel) else { return };
    let key = Key::parse(&key).unwrap_or_default();
    let Ok(payload) = Payload::json(value.to_string().as_bytes()) else { return };
    if let Err(problem) = hub.publish("host", channel, Draft::value(key, payload)).await {
        tracing::debug!(%problem, "a figure was not published");
    }
}
