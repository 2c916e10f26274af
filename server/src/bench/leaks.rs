//! What is left when streams and sessions have come and gone.

use std::{error::Error, sync::Arc};

use fulmar_client::{Connector, Trust, wtransport::Connection};
use fulmar_core::{
    ClientMessage,
    codec::{binary, varint},
};
use tokio::{sync::Semaphore, task::JoinSet};

use super::{Outcome, Progress, server::Server};

/// Opens many streams on one connection, then many sessions, and prints the server's memory as it goes.
#[derive(Debug, clap::Args)]
pub(super) struct Leaks {
    /// Streams on one connection
    #[arg(long, default_value_t = 1_000_000)]
    streams: u64,
    /// Sessions, one after another
    #[arg(long, default_value_t = 20_000)]
    sessions: u64,
    /// Streams or sessions at once
    #[arg(long, default_value_t = 32)]
    at_once: usize,
}

impl Leaks {
    pub(super) async fn run(self) -> Outcome {
        self.streams().await?;
        self.sessions().await
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
