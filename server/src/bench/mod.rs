//! Workloads that print figures.

/// What to measure.
#[derive(Debug, clap::Args)]
pub struct Arguments {}

/// Runs a workload.
///
/// # Errors
/// What keeps it from being measured.
pub fn run(_arguments: Arguments) -> Result<(), Box<dyn std::error::Error>> {
    Ok(())
}
