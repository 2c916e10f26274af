//! The `fulmar` program: reads arguments, loads the configuration, runs a node.

use std::{
    io::{self, Write as _},
    pin::pin,
    process::ExitCode,
};

use clap::{Parser, Subcommand};
use fulmar::{
    config::{Config, Overrides},
    node::Node,
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::oneshot,
};
use tracing_subscriber::EnvFilter;

/// A WebTransport-first realtime server.
#[derive(Parser)]
#[command(version, about, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: Overrides,
}

#[derive(Subcommand)]
enum Command {
    /// Serve; what `fulmar` does without a command
    Serve(Overrides),
    /// Measure this machine's figures; prints them and asserts nothing, but for `trial`
    Bench(fulmar::bench::Arguments),
}

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let filter = EnvFilter::try_from_env("FULMAR_LOG").unwrap_or_else(|_| EnvFilter::new("warn,fulmar=info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let arguments = Arguments::parse();
    let done = match arguments.command.unwrap_or(Command::Serve(arguments.serve)) {
        Command::Serve(overrides) => serve(overrides),
        Command::Bench(arguments) => fulmar::bench::run(arguments).map(|()| ExitCode::SUCCESS),
    };
    match done {
        Ok(status) => status,
        Err(failure) => {
            eprintln!("fulmar: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn serve(overrides: Overrides) -> Result<ExitCode, Failure> {
    let config = Config::load(overrides)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let done: Result<_, Failure> = runtime.block_on(async {
        let development = config.development;
        let patience = config.stop_deadline;
        let node = Node::bind(config)?;
        let mut signals = Signals::listen()?;
        if development {
            println!("Fulmar is in development mode. Open {}", node.url());
        } else {
            println!("Fulmar serves {} and WebTransport on {}/udp", node.url(), node.quic_address());
        }
        let hub = node.hub().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let mut running = pin!(node.run(async {
            let _ = stopped.await;
        }));
        tokio::select! {
            done = &mut running => return Ok(done.map(|()| ExitCode::SUCCESS)?),
            _ = signals.next() => {}
        }
        say(&format!(
            "Stopping: {} sessions are told to come back elsewhere. This takes {} s at most; a second signal (Ctrl-C) ends it at once",
            hub.census().0,
            patience.as_secs()
        ));
        drop(stop);
        tokio::select! {
            done = running => Ok(done.map(|()| ExitCode::SUCCESS)?),
            number = signals.next() => {
                say("Stopped at once, by a second signal");
                Ok(ExitCode::from(128 + number))
            }
        }
    });
    // What may still run is not waited for.
    runtime.shutdown_background();
    done
}

/// The signals that stop a server.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// The number of the next one.
    async fn next(&mut self) -> u8 {
        let kind = tokio::select! {
            _ = self.interrupt.recv() => SignalKind::interrupt(),
            _ = self.terminate.recv() => SignalKind::terminate(),
        };
        kind.as_raw_value() as u8
    }
}

/// Tells whoever started the server, if anybody still listens.
fn say(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}
