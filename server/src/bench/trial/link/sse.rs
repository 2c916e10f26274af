//! Server-sent events.

use std::collections::VecDeque;

use bytes::{Buf as _, BytesMut};
use serde::Deserialize;

use super::{
    Broken, Opening, Seen,
    http::{Http, Length},
    query, tcp, ticket,
};
use crate::bench::trial::{limits, world::World};

#[derive(Debug)]
pub(in crate::bench::trial) struct Link {
    http: Http,
    stream: BytesMut,
    waiting: VecDeque<Seen>,
}

impl Link {
    pub(super) async fn open(world: &World, opening: &mut Opening) -> Result<Self, Broken> {
        let mut http = Http::over(tcp(world, opening.from).await?, world.http);
        let ticket = ticket(&mut http, opening.session.as_ref()).await?;
        // As an EventSource says it, where it was an event stream or a poll that gave the cursor.
        let last = opening.place.given_cursor().map(|it| format!("Last-Event-ID: {it}\r\n"));
        let after = opening.place.cursor(&world.channels).filter(|_| last.is_none());
        let target = format!("/sse{}", query(world, after.as_deref(), ticket.as_deref()));
        http.get(&target, &last.unwrap_or_default()).await?;
        match http.head().await? {
            (200, Length::Chunked) => Ok(Self { http, stream: BytesMut::new(), waiting: VecDeque::new() }),
            (status, _) => Err(Broken::wrong(format_args!("an event stream was answered with {status}"))),
        }
    }

    pub(super) async fn next(&mut self, world: &World) -> Result<Seen, Broken> {
        loop {
            if let Some(seen) = self.waiting.pop_front() {
                return Ok(seen);
            }
            let chunk = self.http.chunk().await?;
            self.stream.extend_from_slice(&chunk.ok_or_else(|| Broken::ended("the event stream ended"))?);
            let mut from = 0;
            while let Some(end) =
                self.stream.get(from..).and_then(|it| it.windows(2).position(|it| it == b"\n\n"))
            {
                let text = std::str::from_utf8(&self.stream[from..from + end]).map_err(Broken::wrong)?;
                self.waiting.extend(event(world, text)?);
                from += end + 2;
            }
            self.stream.advance(from);
            if self.stream.len() > limits::BODY_BYTES {
                return Err(Broken::wrong("an event of the stream does not end"));
            }
        }
    }
}

#[derive(Debug, Deserialize)]
struct Close {
    code: u32,
}

/// What an event of the stream means for the application.
fn event(world: &World, text: &str) -> Result<Option<Seen>, Broken> {
    let (mut id, mut name, mut data) = (None, "", String::new());
    for line in text.lines() {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => id = Some(value.to_owned()),
            "event" => name = value,
            "data" if data.is_empty() => value.clone_into(&mut data),
            "data" => {
                data.push('\n');
                data.push_str(value);
            }
            _ => {}
        }
    }
    Ok(match name {
        "" if data.is_empty() => None,
        "" => Some(Seen::Event(super::publication(world, &data, id)?)),
        "gap" => Some(Seen::Gap),
        "reset" => Some(Seen::Reset),
        "close" => {
            let Close { code } = super::read(data.as_bytes())?;
            return Err(Broken::closed(code, format_args!("the server closed the event stream: {data}")));
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_told_apart() {
        let nowhere = "127.0.0.1:1".parse().expect("an address");
        let world = World::new(nowhere, nowhere, 2, 10).expect("names");
        let seen = |text: &str| event(&world, text).expect("it can be read");
        let publication = "{\"channel\":\"event:trial-1\",\"epoch\":\"e\",\"offset\":7,\ndata: \"data\":\"0004\",\"time\":1}";
        let Some(Seen::Event(it)) = seen(&format!("id: a.b.c\ndata: {publication}")) else {
            panic!("no event")
        };
        assert_eq!((it.channel, it.number, it.position.offset.get()), (1, 4, 7));
        assert_eq!(it.cursor.as_deref(), Some("a.b.c"));
        assert!(seen("retry: 1000\n: fulmar").is_none() && seen(": keep-alive").is_none());
        assert!(matches!(seen("id: x\nevent: gap\ndata: {}"), Some(Seen::Gap)));
        assert!(matches!(seen("id: x\nevent: reset\ndata: {}"), Some(Seen::Reset)));
        let closed =
            |code| event(&world, &format!("event: close\ndata: {{\"code\":{code}}}")).expect_err("it ends");
        assert!(matches!((closed(4900), closed(4901)), (Broken::Ended(_), Broken::Wrong(_))));
        assert!(event(&world, &publication.replace("trial-1", "other").replace("{", "data: {")).is_err());
    }
}
