//! Long-polling.

use std::collections::VecDeque;

use fulmar_core::Cursor;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Broken, Opening, Seen, Session, http::Http, publication, query, read, tcp, ticket};
use crate::bench::trial::{limits, world::World};

#[derive(Debug)]
pub(in crate::bench::trial) struct Link {
    http: Http,
    session: Option<Session>,
    /// Where the next poll begins.
    cursor: Option<String>,
    /// A poll is under way.
    asked: bool,
    /// It is the last one.
    retired: bool,
    waiting: VecDeque<Seen>,
}

#[derive(Debug, Deserialize)]
struct Answer<'a> {
    cursor: String,
    #[serde(borrow)]
    publications: Vec<&'a RawValue>,
    #[serde(borrow)]
    control: Vec<Control<'a>>,
}

#[derive(Debug, Deserialize)]
struct Control<'a> {
    r#type: &'a str,
}

impl Link {
    pub(super) async fn open(world: &World, opening: &mut Opening) -> Result<Self, Broken> {
        let http = Http::over(tcp(world, opening.from).await?, world.http);
        let session = opening.session.clone();
        let cursor = opening.place.cursor(&world.channels);
        let mut it = Self { http, session, cursor, asked: false, retired: false, waiting: VecDeque::new() };
        // Once it is answered the session has the channels, and the cursor tells where reading begins.
        it.begin(world, 0).await?;
        it.take(world).await?;
        let cursor = it.cursor.as_deref().and_then(|it| Cursor::parse(it).ok());
        opening.place.learn(cursor.as_ref(), &world.channels);
        Ok(it)
    }

    pub(super) async fn next(&mut self, world: &World) -> Result<Seen, Broken> {
        loop {
            if let Some(seen) = self.waiting.pop_front() {
                return Ok(seen);
            }
            if self.retired && !self.asked {
                return Err(Broken::ended("it was the last poll"));
            }
            self.ask(world).await?;
            self.take(world).await?;
        }
    }

    /// Polls no more: that would attach the session here again.
    pub(super) fn retire(&mut self) {
        self.retired = true;
    }

    /// Has a poll under way.
    pub(super) async fn ask(&mut self, world: &World) -> Result<(), Broken> {
        if self.asked { Ok(()) } else { self.begin(world, limits::POLL_WAIT).await }
    }

    async fn begin(&mut self, world: &World, wait: u64) -> Result<(), Broken> {
        let ticket = ticket(&mut self.http, self.session.as_ref()).await?;
        let query = query(world, self.cursor.as_deref(), ticket.as_deref());
        self.http.get(&format!("/poll{query}&wait={wait}"), "").await?;
        self.asked = true;
        Ok(())
    }

    async fn take(&mut self, world: &World) -> Result<(), Broken> {
        let body = self.http.answer().await?;
        self.asked = false;
        let answer: Answer<'_> = read(&body)?;
        for control in &answer.control {
            match control.r#type {
                "gap" => self.waiting.push_back(Seen::Gap),
                "reset" => self.waiting.push_back(Seen::Reset),
                _ => {}
            }
        }
        // The answer's cursor is that of who has taken all of it.
        let last = answer.publications.len().saturating_sub(1);
        for (index, text) in answer.publications.iter().enumerate() {
            let cursor = (index == last).then(|| answer.cursor.clone());
            self.waiting.push_back(Seen::Event(publication(world, text.get(), cursor)?));
        }
        self.cursor = Some(answer.cursor);
        Ok(())
    }
}
