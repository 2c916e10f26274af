//! Who may call: names under which the server answers, and pages whose scripts may use it. PROTOCOL.md, section 6.
//!
//! Trust comes from what is bound and configured, never from the peer's address. A page of another site can make a browser
//! send requests here, but cannot change their `Origin`; one whose own name was made to resolve to this machine cannot
//! change their `Host`.

use std::net::{Ipv4Addr, Ipv6Addr};

use fulmar_core::{Code, Problem};
use http::uri::Authority;

/// The rules of one server.
#[derive(Clone, Debug)]
pub struct Access {
    /// Names besides the loopback ones.
    hosts: Vec<String>,
    /// Origins besides the sidecar's own.
    origins: Vec<String>,
    /// The sidecar's, from which its own pages come.
    scheme: &'static str,
    port: u16,
}

impl Access {
    /// Rules for a sidecar that speaks `scheme` on `port`.
    pub fn new(hosts: Vec<String>, origins: Vec<String>, scheme: &'static str, port: u16) -> Self {
        let hosts = hosts.into_iter().map(|host| host.to_ascii_lowercase()).collect();
        Self { hosts, origins, scheme, port }
    }

    /// Checks a request by its `Host` or `:authority` and its `Origin`.
    ///
    /// # Errors
    /// `misdirected` or `forbidden_origin`.
    pub fn check(&self, authority: Option<&str>, origin: Option<&[u8]>) -> Result<(), Problem> {
        let host = authority.and_then(host_of);
        if !host.as_deref().is_some_and(|host| self.is_ours(host)) {
            return Err(Problem::new(
                Code::Misdirected,
                "this server does not answer to that name; add it to hosts in the configuration",
            ));
        }
        match origin {
            Some(origin) if !self.is_allowed(origin) => Err(Problem::new(
                Code::ForbiddenOrigin,
                "pages of that origin may not use this server; add it to origins in the configuration",
            )),
            _ => Ok(()),
        }
    }

    fn is_allowed(&self, origin: &[u8]) -> bool {
        let Ok(origin) = std::str::from_utf8(origin) else { return false };
        if self.origins.iter().any(|allowed| allowed == origin) {
            return true;
        }
        let Some((scheme, authority)) = origin.split_once("://") else { return false };
        let default = if scheme == "https" { 443 } else { 80 };
        let port = authority.parse::<Authority>().ok().map(|it| it.port_u16().unwrap_or(default));
        scheme == self.scheme
            && port == Some(self.port)
            && host_of(authority).is_some_and(|host| self.is_ours(&host))
    }

    fn is_ours(&self, host: &str) -> bool {
        is_loopback(host) || self.hosts.iter().any(|ours| ours == host)
    }
}

/// The host of an authority, in lower case, without brackets or port. `None` when it is none, or names a user.
fn host_of(authority: &str) -> Option<String> {
    let authority: Authority = authority.parse().ok()?;
    if authority.as_str().contains('@') {
        return None;
    }
    let host = authority.host();
    // The parser lets other text follow a bracket.
    let port = authority.as_str().strip_prefix(host)?;
    if !port.is_empty() && !port.strip_prefix(':')?.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // Only an IPv6 address stands in brackets.
    let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.parse::<Ipv6Addr>().ok().map(|_| address)?,
        None => host,
    };
    Some(host.to_ascii_lowercase())
}

/// Whether a host is a loopback name.
pub fn is_loopback(host: &str) -> bool {
    host == "localhost"
        || host.parse::<Ipv4Addr>().is_ok_and(|ip| ip.is_loopback())
        || host.parse::<Ipv6Addr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(access: &Access, authority: &str, origin: Option<&str>) -> Option<Code> {
        access.check(Some(authority), origin.map(str::as_bytes)).err().map(|problem| problem.code)
    }

    #[test]
    fn only_our_names_and_pages_pass() {
        let it = Access::new(vec!["Game.example".into()], vec!["https://app.example".into()], "http", 8080);
        for authority in
            ["localhost:8080", "127.0.0.1", "127.9.9.9:1", "[::1]:8080", "LOCALHOST", "game.example"]
        {
            assert_eq!(code(&it, authority, None), None, "{authority}");
        }
        for authority in [
            "",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "a@localhost",
            "[::2]",
            "[::1].evil.example",
            "[::1]a:8080",
            "[localhost]",
            "[127.0.0.1]",
            "localhost:80a",
            "localhost:+80",
        ] {
            assert_eq!(code(&it, authority, None), Some(Code::Misdirected), "{authority}");
        }
        assert_eq!(it.check(None, None).expect_err("no host").code, Code::Misdirected);
        for origin in
            ["http://localhost:8080", "http://127.0.0.1:8080", "http://[::1]:8080", "https://app.example"]
        {
            assert_eq!(code(&it, "localhost", Some(origin)), None, "{origin}");
        }
        for origin in [
            "null",
            "",
            "http://localhost",
            "http://localhost:8081",
            "https://localhost:8080",
            "http://evil.example:8080",
            "http://localhost:8080@evil.example",
            "http://localhost:8080.evil.example",
            "http://[::1].evil.example:8080",
            "https://app.example.evil.example",
            "http://app.example",
        ] {
            assert_eq!(code(&it, "localhost", Some(origin)), Some(Code::ForbiddenOrigin), "{origin}");
        }
    }
}
