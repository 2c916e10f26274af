//! What is left when streams, sessions and clients have come and gone.

use std::{error::Error, sync::Arc};

use fulmar_client::{Connector, Trust, wtransport::Connection};
use fulmar_core::{
    ClientMessage,
    codec::{binary, varint},
};
use futures_util::future::try_join_all;
use tokio::{sync::Semaphore, task::JoinSet};

use super::{
    Outcome, Progress,
    server::{Held, Server},
    silent::{Silent, Transport},
};

/// Opens many streams on one connection, then many sessions, then has many clients of each transport come and vanish, and prints the
/// server's memory as it goes.
#[derive(Debug, clap::Args)]
pub(super) struct Leaks {
    /// Streams on one connection; 0 leaves them out
    #[arg(long, default_value_t = 1_000_000)]
    streams: u64,
    /// Sessions, one after another; 0 leaves them out
    #[arg(long, default_value_t = 20_000)]
    sessions: u64,
    /// Clients of each transport that connect and vanish; 0 leaves them out
    #[arg(long, default_value_t = 10_000)]
    cycles: usize,
    /// How they are connected
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Transport::Websocket, Transport::Sse, Transport::Poll, Transport::Webtransport])]
    transport: Vec<Transport>,
    /// Streams, sessions or clients at once
    #[arg(long, default_value_t = 32)]
    at_once: usize,
}

/// Clients that vanish before all of them are waited for, at most, so that they do not add up to a load of their own. It is always as
/// many: what the allocator keeps for the most that there were at once would else look like what each of them leaves.
const UNDISCOVERED: usize = 1_000;
/// Sessions of WebTransport that vanish together, with the relay between them and the server.
const BEHIND_A_RELAY: usize = 8;

impl Leaks {
    pub(super) async fn run(self) -> Outcome {
        if self.streams > 0 {
            self.streams().await?;
        }
        if self.sessions > 0 {
            self.sessions().await?;
        }
        if self.cycles > 0 {
            println!(
                "clients that connect and vanish: their sockets are reset, or, of WebTransport, heard no more"
            );
            println!(
                "grown: Pss since the line above, for each client since. The allocator keeps what the most clients at once needed, so only growth that goes on is a leak"
            );
            println!(
                "{:>14} {:>10} {:>10} {:>12} {:>10} {:>10} {:>10}",
                "", "done", "Pss KiB", "descriptors", "tasks", "sessions", "grown B"
            );
            for transport in &self.transport {
                self.cycles(*transport).await?;
            }
        }
        Ok(())
    }

    /// Prints what there is before, after a tenth, which warms up, at half, and at the end, and whether that is what there was.
    async fn cycles(&self, transport: Transport) -> Outcome {
        let server = Server::start_with("session_grace_seconds = 1\n").await?;
        let before = server.settled().await?;
        let name = format!("{transport:?}").to_lowercase();
        let mut progress = Progress::new("connecting and vanishing", self.cycles as u64);
        let together = if transport == Transport::Webtransport { BEHIND_A_RELAY } else { 1 };
        let mut last = Mark { done: 0, held: before };
        let (mut since, mut grown) = (0, 0);
        last.print(&name, "");
        let (mut done, wave) = (0, self.cycles.div_ceil(10).min(UNDISCOVERED));
        for mark in [self.cycles.div_ceil(10), self.cycles.div_ceil(2), self.cycles] {
            while done < mark {
                let end = mark.min((done / wave + 1) * wave);
                while done < end {
                    let mut clients = Vec::new();
                    while done < end && clients.len() < self.at_once.div_ceil(together) {
                        let count = together.min(end - done);
                        clients.push(Silent::connect(transport, &server, count));
                        done += count;
                    }
                    for silent in try_join_all(clients).await? {
                        silent.vanish()?;
                    }
                    progress.at(done as u64);
                }
                server.is_empty().await?;
                server.back_at(before).await?;
            }
            let now = Mark { done, held: server.back_at(before).await? };
            progress.clear();
            (since, grown) = (now.done - last.done, now.grown_since(last));
            now.print(&name, &format!("{grown:+}"));
            last = now;
        }
        println!(
            "{name:>14} {}; Pss grew by {grown} B for each of the last {since} clients",
            verdict(before, last.held)
        );
        Ok(())
    }

    /// Each stream carries a ping and its answer, and ends on both sides.
    async fn streams(&self) -> Outcome {
        let server = Server::start().await?;
        let connector = Connector::new(&Trust::Insecure)?;
        let session = connector.connect(&server.webtransport).await?;
        println!("streams on one connection, each with a message and its answer");
        table();
        let mut progress = Progress::new("opening streams", self.streams);
        let (mut tasks, at_once) = (JoinSet::new(), Arc::new(Semaphore::new(self.at_once)));
        for n in 0..self.streams {
            let permit = at_once.clone().acquire_owned().await?;
            let connection = session.connection().clone();
            tasks.spawn(async move {
                let _permit = permit;
                exchange(&connection).await.map_err(|error| error.to_string())
            });
            while let Some(done) = tasks.try_join_next() {
                done??;
            }
            if is_tenth(n, self.streams) {
                line(&server, n).await?;
            }
            progress.at(n);
        }
        while let Some(done) = tasks.join_next().await {
            done??;
        }
        drop(progress);
        line(&server, self.streams).await
    }

    async fn sessions(&self) -> Outcome {
        let server = Server::start().await?;
        let connector = Connector::new(&Trust::Insecure)?;
        println!("sessions that are opened, used and closed");
        table();
        let mut progress = Progress::new("opening sessions", self.sessions);
        let (mut tasks, at_once) = (JoinSet::new(), Arc::new(Semaphore::new(self.at_once)));
        for n in 0..self.sessions {
            let permit = at_once.clone().acquire_owned().await?;
            let (connector, url) = (connector.clone(), server.webtransport.clone());
            tasks.spawn(async move {
                let _permit = permit;
                let session = connector.connect(&url).await.map_err(|error| error.to_string())?;
                session.close(4999, "done");
                session.closed().await;
                Ok::<_, String>(())
            });
            while let Some(done) = tasks.try_join_next() {
                done??;
            }
            if is_tenth(n, self.sessions) {
                line(&server, n).await?;
            }
            progress.at(n);
        }
        while let Some(done) = tasks.join_next().await {
            done??;
        }
        drop(progress);
        server.is_empty().await?;
        line(&server, self.sessions).await
    }
}

/// What the server has when so many clients have come and gone.
#[derive(Clone, Copy)]
struct Mark {
    done: usize,
    held: Held,
}

impl Mark {
    fn print(self, name: &str, grown: &str) {
        let Self { done, held: Held { pss, descriptors, tasks, sessions } } = self;
        println!(
            "{name:>14} {done:>10} {:>10} {descriptors:>12} {tasks:>10} {sessions:>10} {grown:>10}",
            pss / 1024
        );
    }

    /// By how many bytes the memory has grown for each client since.
    fn grown_since(self, last: Self) -> i64 {
        let clients = self.done.saturating_sub(last.done).max(1);
        (self.held.pss as i64 - last.held.pss as i64) / clients as i64
    }
}

/// Whether a server has no more than before, memory apart, of which only the table can tell.
fn verdict(before: Held, after: Held) -> String {
    let more: Vec<_> = [
        ("descriptors", before.descriptors, after.descriptors),
        ("tasks", before.tasks, after.tasks),
        ("sessions", before.sessions, after.sessions),
    ]
    .into_iter()
    .filter(|(_, before, after)| after > before)
    .map(|(what, before, after)| format!("{} {what}", after - before))
    .collect();
    if more.is_empty() {
        "descriptors, tasks and sessions are back where they were".to_owned()
    } else {
        format!("LEFT BEHIND: {}", more.join(", "))
    }
}

fn is_tenth(n: u64, of: u64) -> bool {
    n.is_multiple_of(of.div_ceil(10))
}

fn table() {
    println!("{:>10} {:>10} {:>12} {:>10}", "done", "Pss KiB", "descriptors", "sessions");
}

async fn line(server: &Server, done: u64) -> Outcome {
    let sessions = server.stats().await?["sessions"].clone();
    println!("{done:>10} {:>10} {:>12} {sessions:>10}", server.pss()? / 1024, server.descriptors()?);
    Ok(())
}

async fn exchange(connection: &Connection) -> Result<(), Box<dyn Error + Send + Sync>> {
    let (mut send, mut recv) = connection.open_bi().await?.await?;
    let ping = binary::encode_client(&ClientMessage::Ping { r#ref: None });
    let mut frame = Vec::with_capacity(ping.len() + 1);
    varint::write(&mut frame, ping.len() as u64);
    frame.extend_from_slice(&ping);
    send.write_all(&frame).await?;
    send.finish().await?;
    let mut chunk = [0; 64];
    while recv.read(&mut chunk).await?.is_some() {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: Held = Held { sessions: 0, tasks: 5, descriptors: 13, pss: 8_000_000 };

    #[test]
    fn what_is_left_behind_is_named() {
        let fewer = Held { tasks: 4, pss: 90_000_000, ..BEFORE };
        assert_eq!(verdict(BEFORE, fewer), "descriptors, tasks and sessions are back where they were");
        let more = Held { descriptors: 14, sessions: 2, ..BEFORE };
        assert_eq!(verdict(BEFORE, more), "LEFT BEHIND: 1 descriptors, 2 sessions");
    }

    #[test]
    fn memory_grows_or_shrinks_by_client() {
        let at = |done, pss| Mark { done, held: Held { pss, ..BEFORE } };
        assert_eq!(at(3_000, 8_500_000).grown_since(at(1_000, 8_000_000)), 250);
        assert_eq!(at(3_000, 7_500_000).grown_since(at(1_000, 8_000_000)), -250);
        assert_eq!(at(1, 9).grown_since(at(1, 8)), 1, "a mark may come twice");
    }
}
