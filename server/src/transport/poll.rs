//! Long-polling and polling: one read, one answer.

use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use fulmar_core::{ChannelName, CloseCode, Code, Encoding, Item, Problem, codec::json};
use tokio::time;

use super::progress::Progress;
use crate::{
    budget::Budget,
    hub::{Connection, CursorRequest, Feed, FeedEnd, ReadBudget},
    limits,
};

/// Room in an answer for its cursor and the largest publication that one more read can bring.
const RESERVE: usize = 8 * 1024;

/// Reads `channels` on from `request`, waiting up to `wait` if there is nothing, and gives the body of the answer, which has
/// its share of the connection's `budget` until it is sent.
///
/// # Errors
/// A subscription's problem.
pub async fn answer(
    connection: Connection,
    mut feed: Feed,
    channels: &[ChannelName],
    request: &CursorRequest,
    wait: Duration,
    budget: Option<Budget>,
) -> Result<Bytes, Problem> {
    let subscribed = connection.subscribe_all(&feed.handle(), channels, request)?;
    let mut progress = Progress::begin(&connection, &subscribed, request);
    let mut answer = Answer::default();
    let deadline = time::sleep(wait);
    tokio::pin!(deadline);
    let reserved = loop {
        // What a client does not take holds up its other polls on the connection, and nothing else.
        let reserved = match &budget {
            Some(budget) => Some(budget.reserve(limits::POLL_BYTES).await),
            None => None,
        };
        answer.more = answer.fill(&connection, &mut feed, &mut progress);
        if let Some(code) = connection.close_code() {
            check(code)?;
        }
        if !answer.is_empty() {
            break reserved;
        }
        drop(reserved);
        tokio::select! {
            () = feed.ready() => {}
            code = connection.closed() => {
                check(code)?;
                break None;
            }
            () = &mut deadline => break None,
        }
    };
    progress.pass_dropped(&connection);
    let answer = answer.render(&progress.cursor());
    Ok(match reserved {
        Some(mut reserved) => {
            reserved.shrink(answer.len());
            reserved.hold(answer)
        }
        None => answer,
    })
}

/// What a poll that the server ends is answered. When the server stops, what there is; else it would seem that nothing had happened.
fn check(code: CloseCode) -> Result<(), Problem> {
    match code {
        CloseCode::Replaced => Err(Problem::new(
            Code::Replaced,
            "another connection reads this session now; it has the subscriptions",
        )),
        CloseCode::FellBehind => Err(Problem::new(
            Code::FellBehind,
            "the session was not read for longer than a channel's history lasts; subscribe again",
        )),
        CloseCode::GoingAway
        | CloseCode::NoHeartbeat
        | CloseCode::SessionExpired
        | CloseCode::ProtocolError
        | CloseCode::Refused => Ok(()),
    }
}

#[derive(Debug, Default)]
struct Answer {
    publications: BytesMut,
    control: BytesMut,
    more: bool,
}

impl Answer {
    fn is_empty(&self) -> bool {
        self.publications.is_empty() && self.control.is_empty()
    }

    /// Takes in what there is, up to the bound, and says whether there is more.
    fn fill(&mut self, connection: &Connection, feed: &mut Feed, progress: &mut Progress) -> bool {
        let mut deliveries = Vec::new();
        loop {
            // Base64 and escapes make an encoding longer than what it is read as, so each read is small and the
            // largest publication always has room.
            let largest = fulmar_core::limits::PAYLOAD_BYTES * 6 + RESERVE;
            if self.publications.len() + self.control.len() + largest > limits::POLL_BYTES {
                return true;
            }
            let end = connection.read(feed, ReadBudget(1), &mut deliveries);
            for delivery in deliveries.drain(..) {
                progress.deliver(&delivery);
                let frame = delivery.frame(Encoding::Json, connection.hub().counters());
                let (list, (open, rest)) = match delivery.item() {
                    Some(Item::Publication(..)) => (&mut self.publications, json::object_of(&frame)),
                    _ => (&mut self.control, (&b""[..], &frame[..])),
                };
                if !list.is_empty() {
                    list.put_u8(b',');
                }
                list.put_slice(open);
                list.put_slice(rest);
            }
            if end == FeedEnd::Drained {
                return false;
            }
        }
    }

    fn render(self, cursor: &str) -> Bytes {
        let mut out =
            BytesMut::with_capacity(self.publications.len() + self.control.len() + cursor.len() + 80);
        // A cursor has no character that JSON escapes.
        out.put_slice(b"{\"cursor\":\"");
        out.put_slice(cursor.as_bytes());
        out.put_slice(b"\",\"publications\":[");
        out.put_slice(&self.publications);
        out.put_slice(b"],\"control\":[");
        out.put_slice(&self.control);
        out.put_slice(if self.more { b"],\"more\":true}" } else { b"],\"more\":false}" });
        out.freeze()
    }
}
