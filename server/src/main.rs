//! The `fulmar` program: reads arguments, loads the configuration, runs a node.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use fulmar::{
    config::{Config, Overrides},
    node::Node,
};
use tokio::signal::unix::{SignalKind, signal};
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
        Command::Bench(arguments) => fulmar::bench::run(arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("fulmar: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn serve(overrides: Overrides) -> Result<(), Failure> {
    let config = Config::load(overrides)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let development = config.development;
        let node = Node::bind(config)?;
        let (mut interrupt, mut terminate) =
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        if development {
            println!("Fulmar is in development mode. Open {}", node.url());
        } else {
            println!("Fulmar serves {} and WebTransport on {}/udp", node.url(), node.quic_address());
        }
        node.run(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        })
        .await?;
        Ok(())
    })
}
