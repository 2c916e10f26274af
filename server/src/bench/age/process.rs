//! The processes of a measurement.

use std::{
    error::Error,
    fs,
    io::Write as _,
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use rcgen::{CertificateParams, KeyPair};
use serde::de::DeserializeOwned;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time,
};

use super::network::{Place, SERVER};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// This program, with a command that reads and writes lines.
#[derive(Debug)]
pub(super) struct Process {
    _child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Process {
    /// Starts `fulmar bench` with these arguments and waits until it says that it is ready.
    pub(super) async fn start(place: Place, arguments: &[String]) -> Result<Self, Box<dyn Error>> {
        let mut command = place.command(&ourselves()?);
        command.arg("bench").args(arguments);
        let (child, input, output) = spawn(command)?;
        let mut it = Self { _child: child, input, output };
        it.line().await?;
        Ok(it)
    }

    /// Its next line.
    pub(super) async fn line(&mut self) -> Result<String, Box<dyn Error>> {
        let line = time::timeout(PATIENCE, self.output.next_line()).await??;
        line.ok_or_else(|| "a process of the measurement has ended".into())
    }

    pub(super) async fn tell(&mut self, line: &str) -> Result<(), Box<dyn Error>> {
        Ok(self.input.write_all(format!("{line}\n").as_bytes()).await?)
    }

    /// What it answers to a line.
    pub(super) async fn ask<T: DeserializeOwned>(&mut self, line: &str) -> Result<T, Box<dyn Error>> {
        self.tell(line).await?;
        Ok(serde_json::from_str(&self.line().await?)?)
    }
}

/// The server. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Server {
    _child: Child,
    _input: ChildStdin,
    _output: Lines<BufReader<ChildStdout>>,
    directory: PathBuf,
}

impl Server {
    pub(super) const HTTP: SocketAddr = SocketAddr::new(SERVER, 8443);
    pub(super) const QUIC: SocketAddr = SocketAddr::new(SERVER, 4433);

    /// Starts one whose namespaces `state` and `dup` are of state and open to clients; `settings` are those of each.
    pub(super) async fn start(settings: [&str; 2]) -> Result<Self, Box<dyn Error>> {
        let random = u32::from_ne_bytes(crate::clock::entropy());
        let directory = env_directory(&format!("fulmar-bench-{}-{random}", std::process::id()))?;
        let names = ["localhost".to_owned(), SERVER.to_string()];
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new(names)?.self_signed(&key)?;
        let namespace = |name, settings| {
            format!("[namespaces.{name}]\nclass = 'state'\nsubscribe = true\npublish = true\n{settings}\n")
        };
        let text = format!(
            "hosts = ['{SERVER}']\n{}{}",
            namespace("state", settings[0]),
            namespace("dup", settings[1])
        );
        let [config, chain, private] = [
            ("fulmar.toml", text.as_str()),
            ("certificate.pem", &certificate.pem()),
            ("key.pem", &key.serialize_pem()),
        ]
        .map(|(name, text)| write(&directory, name, text));
        let mut command = Place::Server.command(&ourselves()?);
        command.arg("serve").args(["--http", &Self::HTTP.to_string(), "--quic", &Self::QUIC.to_string()]);
        command.arg("--config").arg(config?).arg("--tls-cert").arg(chain?).arg("--tls-key").arg(private?);
        let (child, input, mut output) = spawn(command)?;
        let line = time::timeout(PATIENCE, output.next_line()).await??;
        line.ok_or("the server did not start")?;
        Ok(Self { _child: child, _input: input, _output: output, directory })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn env_directory(name: &str) -> std::io::Result<PathBuf> {
    let directory = std::env::temp_dir().join(name);
    fs::DirBuilder::new().mode(0o700).create(&directory)?;
    Ok(directory)
}

fn write(directory: &Path, name: &str, text: &str) -> std::io::Result<PathBuf> {
    let path = directory.join(name);
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)?
        .write_all(text.as_bytes())?;
    Ok(path)
}

fn ourselves() -> Result<String, Box<dyn Error>> {
    Ok(std::env::current_exe()?.to_str().ok_or("the path of this program is no text")?.to_owned())
}

type Spawned = (Child, ChildStdin, Lines<BufReader<ChildStdout>>);

fn spawn(mut command: Command) -> Result<Spawned, Box<dyn Error>> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
    let input = child.stdin.take().ok_or("the process has no input")?;
    let output = BufReader::new(child.stdout.take().ok_or("the process has no output")?).lines();
    Ok((child, input, output))
}
