//! Who publishes the events.

use std::{error::Error, num::NonZeroU32, sync::Arc, time::Duration};

use fulmar_core::{
    ClientMessage, Draft, Payload,
    codec::binary::{self, ServerFrame},
};
use tokio::time::{self, MissedTickBehavior};

use super::{limits, world::World};
use crate::bench::{Outcome, Progress, client::Client};

/// Publishes all events of a world at a pace, to the channels in turn, and waits until the server has answered each.
pub(super) async fn publish(
    world: &Arc<World>,
    rate: u32,
    payload: usize,
    progress: &mut Progress,
) -> Outcome {
    let mut client = Client::connect(world.http, None).await?;
    let events: u64 = world.totals.iter().sum();
    let channels = world.channels.len() as u64;
    let (begun, mut sent, mut answered) = (world.now(), 0, 0);
    let mut pace = time::interval(Duration::from_millis(5));
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while answered < events {
        tokio::select! {
            frame = client.next() => match binary::decode_server(&frame?)? {
                ServerFrame::Published { channel, .. } => {
                    world.publish(world.channel(channel.as_str()).ok_or("an answer for another channel")?);
                    answered += 1;
                    progress.at(answered);
                }
                ServerFrame::Error { code, message, .. } => {
                    return Err(format!("an event was refused with {code}: {message}").into());
                }
                _ => {}
            },
            _ = pace.tick() => {
                let due = (world.now().saturating_sub(begun).as_secs_f64() * f64::from(rate)) as u64 + 1;
                let room = answered + limits::IN_FLIGHT as u64;
                let until = due.min(room).min(sent + limits::BURST as u64).min(events);
                let messages: Result<Vec<_>, Box<dyn Error>> =
                    (sent..until).map(|n| message(world, n / channels + 1, (n % channels) as usize, payload)).collect();
                client.send_all(&messages?).await?;
                sent = sent.max(until);
            }
        }
    }
    Ok(())
}

fn message(
    world: &World,
    number: u64,
    channel: usize,
    payload: usize,
) -> Result<ClientMessage, Box<dyn Error>> {
    let channel = world.channels.get(channel).ok_or("there is no such channel")?.clone();
    let draft = Draft::new(Payload::text(format!("{number:0>payload$}")));
    Ok(ClientMessage::Publish { r#ref: NonZeroU32::new(1), channel, draft })
}
