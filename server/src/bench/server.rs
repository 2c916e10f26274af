//! The server under load: this program, as a process of its own.

use std::{
    error::Error,
    fs,
    io::{self, Write as _},
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::PathBuf,
    process::Stdio,
};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    process::{Child, Command},
};

const KEY: &str = "a key that guards a loopback server for one run";

/// What a server has at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) sessions: u64,
    pub(super) tasks: u64,
    pub(super) descriptors: u64,
    /// Its proportional set size, in bytes.
    pub(super) pss: u64,
}

/// A running server. Dropping it ends the process.
#[derive(Debug)]
pub(super) struct Server {
    child: Child,
    /// Where its sidecar is.
    pub(super) address: SocketAddr,
    /// Where sessions are opened over WebTransport.
    pub(super) webtransport: String,
    quic: SocketAddr,
    directory: PathBuf,
}

impl Server {
    /// Starts one whose namespaces `event` and `state` are open to clients.
    pub(super) async fn start() -> Result<Self, Box<dyn Error>> {
        Self::start_with("").await
    }

    /// Likewise, with these settings besides.
    pub(super) async fn start_with(settings: &str) -> Result<Self, Box<dyn Error>> {
        let name =
            format!("fulmar-bench-{}-{}", std::process::id(), u32::from_ne_bytes(crate::clock::entropy()));
        let directory = std::env::temp_dir().join(name);
        fs::DirBuilder::new().mode(0o700).create(&directory)?;
        let key = directory.join("key");
        fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&key)?
            .write_all(KEY.as_bytes())?;
        let config = directory.join("fulmar.toml");
        let namespace =
            |name| format!("[namespaces.{name}]\nclass = '{name}'\nsubscribe = true\npublish = true\n");
        let text = format!(
            "{settings}[api]\nkey_file = '{}'\n{}{}",
            key.display(),
            namespace("event"),
            namespace("state")
        );
        fs::write(&config, text)?;
        let mut child = Command::new(std::env::current_exe()?)
            .args(["serve", "--http", "127.0.0.1:0", "--quic", "127.0.0.1:0", "--config"])
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stdout = child.stdout.take().ok_or("the server has no output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).await?;
        let address = line
            .split_whitespace()
            .find_map(|word| word.strip_prefix("http://")?.strip_suffix('/')?.parse().ok())
            .ok_or_else(|| format!("the server did not start: {line:?}"))?;
        let quic = line
            .split_whitespace()
            .find_map(|word| word.strip_suffix("/udp")?.parse().ok())
            .ok_or_else(|| format!("the server does not say where WebTransport is: {line:?}"))?;
        let webtransport = format!("https://{quic}/wt");
        Ok(Self { child, address, webtransport, quic, directory })
    }

    fn proc(&self, file: &str) -> io::Result<String> {
        let pid = self.child.id().ok_or_else(|| io::Error::other("the server has ended"))?;
        fs::read_to_string(format!("/proc/{pid}/{file}"))
    }

    /// Where QUIC is.
    pub(super) fn quic(&self) -> SocketAddr {
        self.quic
    }

    /// How many descriptors it has open.
    pub(super) fn descriptors(&self) -> io::Result<usize> {
        let pid = self.child.id().ok_or_else(|| io::Error::other("the server has ended"))?;
        Ok(fs::read_dir(format!("/proc/{pid}/fd"))?.count())
    }

    /// Its proportional set size, in bytes.
    pub(super) fn pss(&self) -> io::Result<u64> {
        let text = self.proc("smaps_rollup")?;
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
        let kilobytes = line.and_then(|rest| rest.trim().trim_end_matches(" kB").trim().parse::<u64>().ok());
        kilobytes.map(|it| it * 1024).ok_or_else(|| io::Error::other("smaps_rollup has no Pss"))
    }

    /// Processor time that it has used, in seconds.
    pub(super) fn cpu_seconds(&self) -> io::Result<f64> {
        cpu_seconds(self.child.id().ok_or_else(|| io::Error::other("the server has ended"))?)
    }

    /// Waits until it has no session any more.
    pub(super) async fn is_empty(&self) -> Result<(), Box<dyn Error>> {
        for _ in 0..600 {
            if self.stats().await?["sessions"] == 0 {
                return Ok(());
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        Err("sessions are left after a minute".into())
    }

    /// What it has, the connection apart that asks.
    pub(super) async fn held(&self) -> Result<Held, Box<dyn Error>> {
        let stats = self.stats().await?;
        let count = |name: &str| stats[name].as_u64().ok_or_else(|| format!("/api/stats has no {name}"));
        Ok(Held {
            sessions: count("sessions")?,
            tasks: count("tasks")?,
            descriptors: self.descriptors()? as u64,
            pss: self.pss()?,
        })
    }

    /// The same when it has come to rest: when two looks agree on all but memory.
    pub(super) async fn settled(&self) -> Result<Held, Box<dyn Error>> {
        let mut before = self.held().await?;
        for _ in 0..200 {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            let now = self.held().await?;
            if (Held { pss: before.pss, ..now }) == before {
                return Ok(now);
            }
            before = now;
        }
        Err("the server does not come to rest".into())
    }

    /// What it has when it has no more tasks and descriptors than `before`, or else what is left of them after a while.
    pub(super) async fn back_at(&self, before: Held) -> Result<Held, Box<dyn Error>> {
        for _ in 0..200 {
            let now = self.held().await?;
            if now.tasks <= before.tasks && now.descriptors <= before.descriptors {
                return Ok(now);
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        self.held().await
    }

    /// Its counters.
    pub(super) async fn stats(&self) -> Result<Value, Box<dyn Error>> {
        let mut stream = TcpStream::connect(self.address).await?;
        let request = format!(
            "GET /api/stats HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {KEY}\r\nConnection: close\r\n\r\n",
            self.address
        );
        stream.write_all(request.as_bytes()).await?;
        let mut response = String::new();
        stream.read_to_string(&mut response).await?;
        let (_, body) = response.split_once("\r\n\r\n").ok_or("no answer from /api/stats")?;
        Ok(serde_json::from_str(body)?)
    }
}

/// The processor time that a process has used, in seconds: of its threads that live, to the nanosecond. (`/proc/PID/stat` counts
/// all of them, but in hundredths of a second, which are the cost of a thousand datagrams.)
///
/// # Errors
/// The system's: the process has ended, or the kernel keeps no `schedstat`.
pub(super) fn cpu_seconds(pid: u32) -> io::Result<f64> {
    let mut nanoseconds = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = match fs::read_to_string(thread?.path().join("schedstat")) {
            // It has ended since the directory was read.
            Err(_) if fs::exists(format!("/proc/{pid}/schedstat"))? => continue,
            read => read?,
        };
        let used = text.split_whitespace().next().and_then(|field| field.parse::<u64>().ok());
        nanoseconds += used.ok_or_else(|| io::Error::other("a schedstat has no time in it"))?;
    }
    Ok(nanoseconds as f64 / 1e9)
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.start_kill();
        let _ = fs::remove_dir_all(&self.directory);
    }
}
