//! Configuration: a file, environment variables and arguments, checked once.

use std::{
    collections::HashMap,
    fmt, fs,
    net::{Ipv4Addr, SocketAddr},
    num::NonZeroUsize,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use fulmar_core::{
    limits::{DUPLICATE_MS_MAX, SESSION_GRACE},
    log::Class,
};
use serde::Deserialize;

use crate::{
    admission::Caps,
    http::{ApiAccess, ApiKey},
    limits::{SESSION_GRACE_MAX, STOP_DEADLINE, STOP_DEADLINE_MAX},
    namespace::{Namespace, Namespaces, Overflow},
};

/// Where the sidecar is bound unless told otherwise.
pub const HTTP: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);
/// Where QUIC is bound unless told otherwise.
pub const QUIC: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 4433);

/// What `fulmar serve` is told by arguments and environment variables; these win over the file.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Overrides {
    /// Address of the HTTP sidecar [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR", env = "FULMAR_HTTP")]
    pub http: Option<SocketAddr>,
    /// UDP address of the QUIC listener [default: 127.0.0.1:4433]
    #[arg(long, value_name = "ADDR", env = "FULMAR_QUIC")]
    pub quic: Option<SocketAddr>,
    /// Configuration file, in TOML
    #[arg(long, value_name = "FILE", env = "FULMAR_CONFIG")]
    pub config: Option<PathBuf>,
    /// Certificate chain, in PEM
    #[arg(long, value_name = "FILE", env = "FULMAR_TLS_CERT")]
    pub tls_cert: Option<PathBuf>,
    /// Private key of the certificate, in PEM, readable by its owner only
    #[arg(long, value_name = "FILE", env = "FULMAR_TLS_KEY")]
    pub tls_key: Option<PathBuf>,
}

/// A checked configuration. Making one binds no port.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the sidecar is bound.
    pub http: SocketAddr,
    /// Where QUIC is bound.
    pub quic: SocketAddr,
    /// The certificate chain and its key; none: a development certificate for QUIC, and a plain sidecar.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Names under which the server answers, besides loopback ones.
    pub hosts: Vec<String>,
    /// Origins whose pages may use the server, besides its own.
    pub origins: Vec<String>,
    /// Who may use `/api/*`.
    pub api: ApiAccess,
    /// Who may still connect, where that is not the default.
    pub caps: CapsSection,
    /// How long a session without a transport is kept.
    pub session_grace: Duration,
    /// How long a stop may take.
    pub stop_deadline: Duration,
    /// What channels are.
    pub namespaces: Namespaces,
    /// Whether this is development mode.
    pub development: bool,
}

/// Why a configuration cannot be used.
#[derive(Debug)]
pub struct ConfigError(String);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    http: Option<SocketAddr>,
    quic: Option<SocketAddr>,
    tls_cert: Option<PathBuf>,
    tls_key: Option<PathBuf>,
    hosts: Vec<String>,
    origins: Vec<String>,
    session_grace_seconds: Option<i64>,
    drain_seconds: Option<i64>,
    api: ApiSection,
    limits: CapsSection,
    namespaces: HashMap<String, NamespaceSection>,
}

/// The section `limits`: caps of each listener, see [`crate::admission`].
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CapsSection {
    /// Connections at once.
    pub connections: Option<NonZeroUsize>,
    /// Handshakes in progress.
    pub handshakes: Option<NonZeroUsize>,
    /// Connections at once from one address.
    pub connections_per_address: Option<NonZeroUsize>,
}

impl CapsSection {
    /// The caps of a listener that is bound to `address`.
    pub fn of_listener(&self, address: SocketAddr) -> Caps {
        let default = Caps::of_listener(address.ip());
        let or = |given: Option<NonZeroUsize>, default| given.map_or(default, NonZeroUsize::get);
        Caps {
            connections: or(self.connections, default.connections),
            handshakes: or(self.handshakes, default.handshakes),
            connections_per_address: self
                .connections_per_address
                .map(NonZeroUsize::get)
                .or(default.connections_per_address),
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ApiSection {
    key_file: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NamespaceSection {
    class: ClassName,
    #[serde(default)]
    overflow: Overflow,
    count: Option<usize>,
    bytes: Option<usize>,
    age_seconds: Option<u64>,
    payload_bytes: Option<usize>,
    max_rate: Option<i64>,
    duplicate_ms: Option<i64>,
    #[serde(default)]
    subscribe: bool,
    #[serde(default)]
    publish: bool,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ClassName {
    Event,
    State,
    Signal,
}

impl Config {
    /// Development mode on the default addresses.
    pub fn development() -> Self {
        Self {
            http: HTTP,
            quic: QUIC,
            tls: None,
            hosts: Vec::new(),
            origins: Vec::new(),
            api: ApiAccess::Open,
            caps: CapsSection::default(),
            session_grace: SESSION_GRACE,
            stop_deadline: STOP_DEADLINE,
            namespaces: Namespaces::development(),
            development: true,
        }
    }

    /// Reads the file, if one is named, and lets the overrides win.
    ///
    /// # Errors
    /// [`ConfigError`] says which setting is wrong and what to do.
    pub fn load(overrides: Overrides) -> Result<Self, ConfigError> {
        let file = overrides.config.as_deref().map(read).transpose()?;
        let development = file.is_none() && overrides.tls_cert.is_none() && overrides.tls_key.is_none();
        let mut it = Self::development();
        if !development {
            let file = file.unwrap_or_default();
            let key_file = file.api.key_file.clone();
            it.configure(file, &overrides)?;
            if let Some(path) = key_file {
                it.api = ApiAccess::Key(ApiKey(read_key(&path)?));
            }
        }
        it.http = overrides.http.unwrap_or(it.http);
        it.quic = overrides.quic.unwrap_or(it.quic);
        it.check()?;
        Ok(it)
    }

    /// What the text of a configuration file says, without reading any file: those that it names may be missing, and
    /// `/api/*` stays closed, since its key is in one of them.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let file = File::parse(text).map_err(|why| ConfigError(format!("in the configuration: {why}")))?;
        let mut it = Self::development();
        it.configure(file, &Overrides::default())?;
        it.check()?;
        Ok(it)
    }

    /// Takes over what a file says, save for the key of the API.
    fn configure(&mut self, file: File, overrides: &Overrides) -> Result<(), ConfigError> {
        let File {
            http,
            quic,
            tls_cert,
            tls_key,
            hosts,
            origins,
            session_grace_seconds,
            drain_seconds,
            api: _,
            limits,
            namespaces,
        } = file;
        self.development = false;
        self.http = http.unwrap_or(self.http);
        self.quic = quic.unwrap_or(self.quic);
        let cert = overrides.tls_cert.clone().or(tls_cert);
        let key = overrides.tls_key.clone().or(tls_key);
        self.tls = match (cert, key) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            _ => return Err(ConfigError("give both of tls_cert and tls_key, or neither".to_owned())),
        };
        self.hosts = hosts;
        self.origins = origins;
        self.caps = limits;
        if let Some(given) = session_grace_seconds {
            self.session_grace = seconds("session_grace_seconds", given, SESSION_GRACE_MAX)?;
        }
        if let Some(given) = drain_seconds {
            self.stop_deadline = seconds("drain_seconds", given, STOP_DEADLINE_MAX)?;
        }
        self.api = ApiAccess::Closed;
        let namespaces: Result<Vec<_>, ConfigError> = namespaces
            .into_iter()
            .map(|(name, section)| section.namespace(&name).map(|namespace| (name, namespace)))
            .collect();
        self.namespaces = Namespaces::new(namespaces?);
        Ok(())
    }

    /// What no combination of settings may be.
    fn check(&self) -> Result<(), ConfigError> {
        for address in [self.http, self.quic] {
            if self.development && !address.ip().is_loopback() {
                return Err(ConfigError(format!(
                    "development mode binds loopback addresses only, not {address}; to serve others, give a \
                     configuration (--config) and a certificate (--tls-cert, --tls-key)"
                )));
            }
        }
        if self.tls.is_none() && !self.http.ip().is_loopback() {
            return Err(ConfigError(format!(
                "{} would serve plain HTTP to other machines; give --tls-cert and --tls-key, or bind a loopback \
                 address behind a proxy that speaks TLS",
                self.http
            )));
        }
        Ok(())
    }
}

impl NamespaceSection {
    fn namespace(self, name: &str) -> Result<Namespace, ConfigError> {
        let wrong = |why: String| Err(ConfigError(format!("in [namespaces.{name}]: {why}")));
        let class = match self.class {
            ClassName::Event => Class::Event,
            ClassName::State => Class::State,
            ClassName::Signal => Class::Signal,
        };
        let mut it = Namespace::closed(class);
        it.overflow = self.overflow;
        it.bounds.count = self.count.unwrap_or(it.bounds.count);
        it.bounds.bytes = self.bytes.unwrap_or(it.bounds.bytes);
        it.bounds.age = self.age_seconds.map_or(it.bounds.age, Duration::from_secs);
        it.payload_bytes =
            self.payload_bytes.unwrap_or(it.payload_bytes).min(fulmar_core::limits::PAYLOAD_BYTES);
        it.subscribe = self.subscribe;
        it.publish = self.publish;
        for (setting, given) in [("max_rate", self.max_rate), ("duplicate_ms", self.duplicate_ms)] {
            if given.is_some() && class != Class::State {
                return wrong(format!("{setting} is for namespaces of class state"));
            }
        }
        if let Some(given) = self.max_rate {
            match u32::try_from(given) {
                Ok(rate @ 1..) => it.max_rate = rate,
                _ => return wrong(format!("max_rate is from 1 to {}, not {given}", u32::MAX)),
            }
        }
        if let Some(given) = self.duplicate_ms {
            match u64::try_from(given) {
                Ok(ms @ 1..=DUPLICATE_MS_MAX) => it.duplicate = Some(Duration::from_millis(ms)),
                _ => return wrong(format!("duplicate_ms is from 1 to {DUPLICATE_MS_MAX}, not {given}")),
            }
        }
        Ok(it)
    }
}

impl File {
    fn parse(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text)
    }
}

/// A time of at least a second.
fn seconds(setting: &str, given: i64, most: Duration) -> Result<Duration, ConfigError> {
    match u64::try_from(given) {
        Ok(seconds @ 1..) if seconds <= most.as_secs() => Ok(Duration::from_secs(seconds)),
        _ => Err(ConfigError(format!("{setting} is from 1 to {}, not {given}", most.as_secs()))),
    }
}

fn read(path: &Path) -> Result<File, ConfigError> {
    let text = fs::read_to_string(path)
        .map_err(|why| ConfigError(format!("cannot read the configuration {}: {why}", path.display())))?;
    File::parse(&text).map_err(|why| ConfigError(format!("in the configuration {}: {why}", path.display())))
}

fn read_key(path: &Path) -> Result<String, ConfigError> {
    let shown = path.display();
    let unreadable = |why| ConfigError(format!("cannot read api.key_file {shown}: {why}"));
    let mode = fs::metadata(path).map_err(unreadable)?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(ConfigError(format!(
            "{shown} can be read by others than its owner; run: chmod 600 {shown}"
        )));
    }
    let key = fs::read_to_string(path).map_err(unreadable)?.trim().to_owned();
    if key.len() < 16 {
        return Err(ConfigError(format!(
            "the key in {shown} has fewer than 16 characters; make a longer one"
        )));
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(overrides: Overrides) -> Result<Config, String> {
        Config::load(overrides).map_err(|error| error.to_string())
    }

    #[test]
    fn development_mode_is_on_exactly_without_configuration_and_certificate() {
        assert!(load(Overrides::default()).expect("defaults").development);
        let named = Overrides {
            tls_cert: Some("cert.pem".into()),
            tls_key: Some("key.pem".into()),
            ..Overrides::default()
        };
        let config = load(named).expect("files are read later");
        assert!(!config.development);
        assert!(matches!(config.api, ApiAccess::Closed));
        let half = Overrides { tls_cert: Some("cert.pem".into()), ..Overrides::default() };
        assert!(load(half).expect_err("half a pair").contains("both"));
    }

    #[test]
    fn development_mode_binds_loopback_only() {
        for address in ["0.0.0.0:0", "192.0.2.1:80", "[::]:80"] {
            let address = address.parse().expect("an address");
            let http = Overrides { http: Some(address), ..Overrides::default() };
            let quic = Overrides { quic: Some(address), ..Overrides::default() };
            for overrides in [http, quic] {
                assert!(load(overrides).expect_err("not loopback").contains("loopback"), "{address}");
            }
        }
    }

    #[test]
    fn a_file_allows_what_it_says_and_no_more() {
        let config = Config::parse(
            "hosts = ['game.example']\n[namespaces.chat]\nclass = 'event'\nsubscribe = true\ncount = 5",
        )
        .expect("a configuration");
        let of = |name: &str| config.namespaces.of(&fulmar_core::ChannelName::parse(name).expect("a name"));
        let chat = of("chat:1");
        assert_eq!((chat.subscribe, chat.publish, chat.bounds.count), (true, false, 5));
        let other = of("other");
        assert_eq!((other.subscribe, other.publish), (false, false));
        assert!(matches!(config.api, ApiAccess::Closed));
        let state = "[namespaces.pos]\nclass = 'state'\n";
        let pos = |settings: &str| {
            let config = Config::parse(&format!("{state}{settings}"))?;
            let pos = config.namespaces.of(&fulmar_core::ChannelName::parse("pos:1").expect("a name"));
            Ok::<_, ConfigError>((pos.max_rate, pos.duplicate.map(|it| it.as_millis())))
        };
        assert_eq!(pos("").expect("defaults"), (200, None));
        assert_eq!(pos("max_rate = 1\nduplicate_ms = 1").expect("the least"), (1, Some(1)));
        assert_eq!(pos("duplicate_ms = 1000").expect("the most"), (200, Some(1000)));
        for wrong in [
            "max_rate = 0",
            "max_rate = -1",
            "max_rate = 4294967296",
            "duplicate_ms = 0",
            "duplicate_ms = 1001",
        ] {
            let why = pos(wrong).expect_err(wrong).to_string();
            let setting = wrong.split(' ').next().expect("its name");
            assert!(
                why.contains("[namespaces.pos]") && why.contains(&format!("{setting} is from 1")),
                "{why}"
            );
        }
        for class in ["event", "signal"] {
            for setting in ["max_rate = 200", "duplicate_ms = 20"] {
                let why = Config::parse(&format!("[namespaces.x]\nclass = '{class}'\n{setting}"))
                    .expect_err(setting);
                assert!(why.to_string().contains("class state"), "{why}");
            }
        }
        let grace = |text: &str| Config::parse(text).map(|config| config.session_grace.as_secs());
        assert_eq!(grace("").expect("the default"), 30);
        assert_eq!(grace("session_grace_seconds = 1").expect("the least"), 1);
        assert_eq!(grace("session_grace_seconds = 86400").expect("the most"), 86_400);
        for wrong in ["0", "-1", "86401"] {
            let why = grace(&format!("session_grace_seconds = {wrong}")).expect_err(wrong).to_string();
            assert!(why.contains("session_grace_seconds is from 1 to 86400"), "{why}");
        }
        let drain = |text: &str| Config::parse(text).map(|config| config.stop_deadline.as_secs());
        assert_eq!(drain("").expect("the default"), 10);
        assert_eq!(drain("drain_seconds = 1").expect("the least"), 1);
        assert_eq!(drain("drain_seconds = 3600").expect("the most"), 3_600);
        for wrong in ["0", "-1", "3601"] {
            let why = drain(&format!("drain_seconds = {wrong}")).expect_err(wrong).to_string();
            assert!(why.contains("drain_seconds is from 1 to 3600"), "{why}");
        }
        assert!(Config::parse("colour = 'red'").is_err(), "unknown settings are refused");
        assert!(Config::parse("http = '0.0.0.0:80'").is_err(), "plain HTTP stays on this machine");
    }
}
