//! How long clients that have fallen silent are taken for alive, and what they leave.

use std::{error::Error, time::Duration};

use futures_util::future::try_join_all;
use tokio::time::{self, Instant};

use super::{
    Outcome, Progress,
    client::Client,
    server::{Held, Server},
    silent::{CHANNEL, Silent, Transport},
    summary::percentile,
};
use crate::limits;

/// Connects clients that then say, answer and read nothing, and prints when the server knows.
#[derive(Debug, clap::Args)]
pub(super) struct Liveness {
    /// How the clients are connected; each is a line of the table
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Transport::Websocket, Transport::Sse, Transport::Poll, Transport::Webtransport])]
    transport: Vec<Transport>,
    /// Clients of each
    #[arg(long, default_value_t = 20)]
    clients: usize,
}

/// In which a dead peer is found.
const BOUND: Duration =
    Duration::from_secs(2 * limits::HEARTBEAT.as_secs() + limits::HEARTBEAT_DEADLINE.as_secs());
/// How long is looked.
const PATIENCE: Duration = Duration::from_secs(BOUND.as_secs() + 15);
const LOOK: Duration = Duration::from_millis(250);
/// What is published to event streams that are not read, so that something waits for them: more than the kernel takes.
const PUBLICATIONS: usize = 8;
const PUBLICATION: usize = 60_000;

struct Line {
    found: Vec<f64>,
    before: Held,
    after: Held,
}

impl Liveness {
    pub(super) async fn run(self) -> Outcome {
        let began = Instant::now();
        let measuring = async {
            try_join_all(self.transport.iter().map(|transport| measure(*transport, self.clients))).await
        };
        let watching = async {
            let mut progress = Progress::new("waiting for what is dead to be found", PATIENCE.as_secs());
            loop {
                progress.at(began.elapsed().as_secs().min(PATIENCE.as_secs()));
                time::sleep(LOOK).await;
            }
        };
        let lines = tokio::select! {
            lines = measuring => lines?,
            () = watching => return Ok(()),
        };
        println!(
            "{} clients of each that say, answer and read nothing, each kind with a server of its own",
            self.clients
        );
        println!(
            "found: when their sessions are gone; held: what the server has, before they came and after"
        );
        println!(
            "{:>14} {:>10} {:>10} {:>10} {:>12} {:>12} {:>14} {:>18}",
            "", "p50 s", "max s", "bound s", "sessions", "tasks", "descriptors", "Pss KiB"
        );
        for (transport, Line { mut found, before, after }) in self.transport.iter().zip(lines) {
            let missing = self.clients - found.len();
            let (p50, max) = (percentile(&mut found, 50.0), percentile(&mut found, 100.0));
            let both = |a: u64, b: u64| format!("{a} -> {b}");
            println!(
                "{:>14} {p50:>10.1} {max:>10.1} {:>10} {:>12} {:>12} {:>14} {:>18}",
                format!("{transport:?}").to_lowercase(),
                BOUND.as_secs(),
                both(before.sessions, after.sessions),
                both(before.tasks, after.tasks),
                both(before.descriptors, after.descriptors),
                both(before.pss / 1024, after.pss / 1024),
            );
            if missing > 0 {
                println!("{missing} of them were not found within {} s", PATIENCE.as_secs());
            }
        }
        Ok(())
    }
}

async fn measure(transport: Transport, clients: usize) -> Result<Line, Box<dyn Error>> {
    let server = Server::start_with("session_grace_seconds = 1\n").await?;
    if transport == Transport::Sse {
        // Before it is looked, so that the history and its encoding are not taken for what was left.
        let silent = Silent::connect(transport, &server, 1).await?;
        fill(&server).await?;
        silent.vanish()?;
        server.is_empty().await?;
    }
    let before = server.settled().await?;
    let silent = Silent::connect(transport, &server, clients).await?;
    let began = Instant::now();
    if transport == Transport::Sse {
        fill(&server).await?;
    }
    let mut found = Vec::new();
    while began.elapsed() < PATIENCE {
        let held = server.held().await?;
        let gone = clients.saturating_sub(held.sessions as usize);
        found.resize(gone.max(found.len()), began.elapsed().as_secs_f64());
        if gone == clients && held.tasks <= before.tasks && held.descriptors <= before.descriptors {
            break;
        }
        time::sleep(LOOK).await;
    }
    let after = server.held().await?;
    drop(silent);
    Ok(Line { found, before, after })
}

/// Publishes more than the kernel takes for a client that does not read.
async fn fill(server: &Server) -> Outcome {
    let mut publisher = Client::connect(server.address, None).await?;
    for _ in 0..PUBLICATIONS {
        publisher.publish(CHANNEL, vec![b'x'; PUBLICATION]).await?;
        publisher.next().await?;
    }
    Ok(())
}
