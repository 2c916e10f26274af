//! The query of a request that reads channels.

use std::time::Duration;

use axum::{extract::Query, http::Uri};
use fulmar_core::{ChannelName, Code, Cursor, Problem, limits};

use crate::{hub::CursorRequest, limits::POLL_WAIT};

/// `?channel=A&channel=B&after=CURSOR&wait=SECONDS&ticket=T&batch`.
#[derive(Debug)]
pub(super) struct ReadQuery {
    pub(super) channels: Vec<ChannelName>,
    /// What `after` says; a problem only for who has no better cursor.
    pub(super) after: Result<CursorRequest, Problem>,
    pub(super) wait: Duration,
    pub(super) ticket: Option<String>,
    pub(super) batches: bool,
}

impl ReadQuery {
    pub(super) fn parse(uri: &Uri) -> Result<Self, Problem> {
        let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(uri)
            .map_err(|_| Problem::new(Code::BadRequest, "the query cannot be read"))?;
        let mut it = Self {
            channels: Vec::new(),
            after: Ok(CursorRequest::Afresh),
            wait: Duration::ZERO,
            ticket: None,
            batches: false,
        };
        let mut after = None;
        for (name, value) in pairs {
            match name.as_str() {
                "channel" => {
                    let channel = ChannelName::parse(&value)?;
                    if !it.channels.contains(&channel) {
                        it.channels.push(channel);
                    }
                    if it.channels.len() > limits::CURSOR_CHANNELS {
                        let message = format!("a request reads at most {} channels", limits::CURSOR_CHANNELS);
                        return Err(Problem::new(Code::TooManyChannels, message));
                    }
                }
                "after" => after = Some(Cursor::parse(&value)),
                "wait" => it.wait = parse_wait(&value)?,
                "ticket" => it.ticket = Some(value),
                "batch" => it.batches = true,
                _ => {}
            }
        }
        if let Some(after) = after {
            it.after = after.and_then(|cursor| it.names_one(cursor)).map(CursorRequest::After);
        }
        Ok(it)
    }

    /// A cursor that names at least one of the channels, unless a session brings channels of its own.
    pub(super) fn names_one(&self, cursor: Cursor) -> Result<Cursor, Problem> {
        let names = self.channels.iter().any(|channel| cursor.get(channel).is_some());
        if names || self.channels.is_empty() || self.ticket.is_some() {
            Ok(cursor)
        } else {
            Err(Problem::new(Code::BadCursor, "the cursor names none of the channels"))
        }
    }

    pub(super) fn require_channels(&self) -> Result<(), Problem> {
        if self.channels.is_empty() && self.ticket.is_none() {
            return Err(Problem::new(Code::MissingChannel, "name a channel: ?channel=NAME"));
        }
        Ok(())
    }
}

fn parse_wait(value: &str) -> Result<Duration, Problem> {
    let bad = || Problem::new(Code::BadWait, "wait is a number of seconds, 0 or more; above 30 counts as 30");
    let seconds: f64 = value.parse().map_err(|_| bad())?;
    if seconds.is_nan() || seconds.is_sign_negative() && seconds != 0.0 {
        return Err(bad());
    }
    Ok(Duration::from_secs_f64(seconds.clamp(0.0, POLL_WAIT.as_secs_f64())))
}
