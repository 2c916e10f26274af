//! Certificates: an operator's from files, or development ones made here and renewed while running.

use std::{
    collections::VecDeque,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use aws_lc_rs::digest;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs as provider,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject as _},
    server::{ClientHello, ResolvesServerCert, ServerSessionMemoryCache},
    sign::CertifiedKey,
};
use time::OffsetDateTime;

use crate::limits;

/// Browsers accept a certificate by its hash when it is valid for at most 14 days.
const PINNABLE: Duration = Duration::from_secs(14 * 24 * 3600);
/// How long a development certificate is valid from the moment it is made; it is dated back by [`BACKDATE`].
const LIFETIME: Duration = Duration::from_secs(13 * 24 * 3600);
/// For clients whose clock is behind.
const BACKDATE: Duration = Duration::from_secs(3600);
/// When the next one is made and its hash announced.
const RENEW: Duration = Duration::from_secs(9 * 24 * 3600);
/// How long the next one is announced before it is served.
const LEAD: Duration = Duration::from_secs(3600);

/// Why there is no certificate.
#[derive(Debug)]
pub enum CertificateError {
    /// A file cannot be read.
    Unreadable(PathBuf, String),
    /// A key file can be read by others.
    Exposed(PathBuf),
    /// The files do not make a usable certificate.
    Unusable(String),
}

impl std::fmt::Display for CertificateError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unreadable(path, why) => write!(f, "cannot read {}: {why}", path.display()),
            Self::Exposed(path) => {
                let path = path.display();
                write!(f, "{path} can be read by others than its owner; run: chmod 600 {path}")
            }
            Self::Unusable(why) => write!(f, "the certificate cannot be used: {why}"),
        }
    }
}

impl std::error::Error for CertificateError {}

/// The certificates that the server answers with.
#[derive(Debug)]
pub struct Certificates {
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Given { key: Arc<CertifiedKey>, hash: Option<String> },
    Development(RwLock<Rotation>),
}

/// Development certificates, oldest first.
#[derive(Debug)]
struct Rotation {
    made: VecDeque<Made>,
    serving: usize,
}

#[derive(Debug)]
struct Made {
    key: Arc<CertifiedKey>,
    hash: String,
    /// Unix time.
    at: Duration,
}

impl Certificates {
    /// An operator's certificate chain and key, in PEM.
    ///
    /// # Errors
    /// [`CertificateError`].
    pub fn from_files(chain: &Path, key: &Path) -> Result<Self, CertificateError> {
        let unreadable = |path: &Path, why: String| CertificateError::Unreadable(path.to_owned(), why);
        let chain: Vec<_> = CertificateDer::pem_file_iter(chain)
            .and_then(Iterator::collect)
            .map_err(|why| unreadable(chain, why.to_string()))?;
        let mode = fs::metadata(key).map_err(|why| unreadable(key, why.to_string()))?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(CertificateError::Exposed(key.to_owned()));
        }
        let key = PrivateKeyDer::from_pem_file(key).map_err(|why| unreadable(key, why.to_string()))?;
        let first =
            chain.first().ok_or_else(|| CertificateError::Unusable("the chain is empty".to_owned()))?;
        let hash = is_pinnable(first).then(|| hash_of(first));
        let key = CertifiedKey::from_der(chain, key, &provider::default_provider())
            .map_err(|why| CertificateError::Unusable(why.to_string()))?;
        Ok(Self { kind: Kind::Given { key: Arc::new(key), hash } })
    }

    /// A fresh development certificate, at `now` in Unix time.
    ///
    /// # Errors
    /// [`CertificateError`], when the system makes none.
    pub fn development(now: Duration) -> Result<Self, CertificateError> {
        let made = VecDeque::from([make(now)?]);
        Ok(Self { kind: Kind::Development(RwLock::new(Rotation { made, serving: 0 })) })
    }

    /// Renews what is due at `now`, in Unix time. Says whether something changed.
    ///
    /// # Errors
    /// [`CertificateError`], when the system makes none; what there is stays.
    pub fn maintain(&self, now: Duration) -> Result<bool, CertificateError> {
        let Kind::Development(rotation) = &self.kind else { return Ok(false) };
        rotation.write().unwrap_or_else(PoisonError::into_inner).step(now, make)
    }

    /// The SHA-256 hashes, in base64, by which a browser may trust the server; the one that is served among them.
    pub fn hashes(&self) -> Vec<String> {
        match &self.kind {
            Kind::Given { hash, .. } => hash.iter().cloned().collect(),
            Kind::Development(rotation) => {
                let rotation = rotation.read().unwrap_or_else(PoisonError::into_inner);
                rotation.made.iter().map(|made| made.hash.clone()).collect()
            }
        }
    }

    /// A TLS configuration that always answers with the present certificate and speaks the given protocols.
    ///
    /// # Errors
    /// [`CertificateError::Unusable`].
    pub fn server_config(self: &Arc<Self>, alpn: &[&[u8]]) -> Result<ServerConfig, CertificateError> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(provider::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|why| CertificateError::Unusable(why.to_string()))?
            .with_no_client_auth()
            .with_cert_resolver(self.clone());
        config.session_storage = ServerSessionMemoryCache::new(limits::TLS_SESSIONS);
        config.send_tls13_tickets = limits::TLS_TICKETS;
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        Ok(config)
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        match &self.kind {
            Kind::Given { key, .. } => Some(key.clone()),
            Kind::Development(rotation) => {
                let rotation = rotation.read().unwrap_or_else(PoisonError::into_inner);
                rotation.made.get(rotation.serving).map(|made| made.key.clone())
            }
        }
    }
}

impl Rotation {
    fn step(
        &mut self,
        now: Duration,
        make: impl FnOnce(Duration) -> Result<Made, CertificateError>,
    ) -> Result<bool, CertificateError> {
        let age = |made: &Made| now.saturating_sub(made.at);
        let shown = |it: &Self| (it.made.iter().map(|made| made.at).collect::<Vec<_>>(), it.serving);
        let before = shown(self);
        if self.made.back().is_none_or(|newest| age(newest) >= RENEW) {
            self.made.push_back(make(now)?);
        }
        // One that has expired is of no use, even if that leaves one which was announced a moment ago: after a sleep of
        // weeks every client has to ask again anyway.
        while self.made.len() > 1 && self.made.front().is_some_and(|oldest| age(oldest) >= LIFETIME) {
            self.made.pop_front();
        }
        self.serving = self.made.iter().rposition(|made| age(made) >= LEAD).unwrap_or(0);
        Ok(before != shown(self))
    }
}

fn make(now: Duration) -> Result<Made, CertificateError> {
    let unusable = |why: String| CertificateError::Unusable(why);
    let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    let mut params = CertificateParams::new(names).map_err(|why| unusable(why.to_string()))?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "Fulmar development");
    let date = |at: Duration| OffsetDateTime::UNIX_EPOCH + at;
    params.not_before = date(now.saturating_sub(BACKDATE));
    params.not_after = date(now + LIFETIME);
    // ECDSA on P-256: the only kind that serverCertificateHashes takes everywhere.
    let key = KeyPair::generate().map_err(|why| unusable(why.to_string()))?;
    let certificate = params.self_signed(&key).map_err(|why| unusable(why.to_string()))?;
    let hash = hash_of(certificate.der());
    let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
    let key = CertifiedKey::from_der(vec![certificate.der().clone()], key, &provider::default_provider())
        .map_err(|why| unusable(why.to_string()))?;
    Ok(Made { key: Arc::new(key), hash, at: now })
}

fn hash_of(certificate: &CertificateDer<'_>) -> String {
    STANDARD.encode(digest::digest(&digest::SHA256, certificate))
}

/// Whether browsers take this certificate by its hash: valid for at most 14 days, with a key on P-256.
fn is_pinnable(certificate: &CertificateDer<'_>) -> bool {
    let Ok((_, parsed)) = x509_parser::parse_x509_certificate(certificate) else { return false };
    let validity = parsed.validity();
    let seconds = validity.not_after.timestamp() - validity.not_before.timestamp();
    let p256 = matches!(
        parsed.public_key().parsed(),
        Ok(x509_parser::public_key::PublicKey::EC(point)) if point.key_size() == 256
    );
    p256 && u64::try_from(seconds).is_ok_and(|seconds| seconds <= PINNABLE.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);
    const START: Duration = Duration::from_secs(1_800_000_000);

    #[test]
    fn a_development_certificate_can_be_pinned() {
        let made = make(START).expect("made");
        assert!(is_pinnable(&made.key.cert[0]));
    }

    #[test]
    fn renewal_overlaps() {
        let certificates = Certificates::development(START).expect("made");
        let first = certificates.hashes();
        assert_eq!(first.len(), 1);
        assert!(!certificates.maintain(START + DAY * 8).expect("steps"));
        // Announced, and not served before clients can know it.
        assert!(certificates.maintain(START + DAY * 9).expect("steps"));
        let both = certificates.hashes();
        assert_eq!((both.len(), &both[0]), (2, &first[0]));
        assert_eq!(serving(&certificates), both[0]);
        assert!(certificates.maintain(START + DAY * 9 + LEAD).expect("steps"));
        assert_eq!(serving(&certificates), both[1]);
        assert_eq!(certificates.hashes(), both);
        // The old one goes when it has expired.
        assert!(certificates.maintain(START + LIFETIME).expect("steps"));
        assert_eq!(certificates.hashes(), both[1..]);
        // A machine that slept for a month has a valid one at once.
        assert!(certificates.maintain(START + DAY * 40).expect("steps"));
        let after = certificates.hashes();
        assert_eq!(after.len(), 1);
        assert_eq!(serving(&certificates), after[0]);
        assert!(!both.contains(&after[0]));
    }

    fn serving(certificates: &Certificates) -> String {
        let Kind::Development(rotation) = &certificates.kind else { panic!("development") };
        let rotation = rotation.read().expect("whole");
        rotation.made[rotation.serving].hash.clone()
    }
}
