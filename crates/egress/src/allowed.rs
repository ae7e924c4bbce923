//! Which hosts and addresses may be reached.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use base::{Error, ErrorKind, Result};
use ipnet::{IpNet, Ipv6Net};
use url::{Host, Url};

/// The setting that errors name.
const SETTING: &str = "rules.http_allowed";

/// Addresses that no name leads to unless they are listed themselves: this machine, the network
/// it is in, the metadata services of clouds, and what is nobody's address.
const INNER: [&str; 26] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
    // The unspecified address, the loopback one, and IPv4 addresses written the old way.
    "::/96",
    "100::/64",
    "2001::/23",
    "2001:db8::/32",
    "3fff::/20",
    "5f00::/16",
    "64:ff9b:1::/48",
    "fc00::/7",
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
];

/// Prefixes of IPv6 addresses that an IPv4 address stands in, and the byte where it begins.
const CARRIERS: [(&str, usize); 3] =
    [("::ffff:0:0/96", 12), ("64:ff9b::/96", 12), ("2002::/16", 2)];

/// The list that the user wrote.
#[derive(Debug, Default)]
pub(crate) struct Allowed {
    names: Vec<String>,
    /// Each begins with a dot.
    suffixes: Vec<String>,
    nets: Vec<IpNet>,
}

impl Allowed {
    /// Reads host names, `*.suffix`es, addresses and networks.
    pub(crate) fn read(entries: &[String]) -> Result<Allowed> {
        let mut allowed = Allowed::default();
        for entry in entries {
            let bad = |why: &str| {
                Error::invalid(format!(
                    "{SETTING} {entry:?} {why}; an entry is a host name (\"hooks.example.com\"), \
                     a suffix (\"*.example.com\"), an address or a network (\"10.1.2.0/24\")"
                ))
            };
            let net = entry.parse::<IpNet>().ok();
            if let Some(net) = net.or_else(|| entry.parse::<IpAddr>().ok().map(IpNet::from)) {
                allowed.nets.push(net.trunc());
                continue;
            }
            let (suffix, name) = match entry.strip_prefix("*.") {
                Some(name) => (true, name),
                None => (false, entry.as_str()),
            };
            match Host::parse(name) {
                Ok(Host::Domain(name)) if name.contains('*') => return Err(bad("has a wildcard")),
                Ok(Host::Domain(name)) if suffix => allowed.suffixes.push(format!(".{name}")),
                Ok(Host::Domain(name)) => allowed.names.push(name),
                Ok(_) => return Err(bad("is an address in a form that is not the usual one")),
                Err(_) => return Err(bad("is not a host")),
            }
        }
        Ok(allowed)
    }

    fn is_empty(&self) -> bool {
        self.names.is_empty() && self.suffixes.is_empty() && self.nets.is_empty()
    }

    fn lists_name(&self, host: &str) -> bool {
        let host = host.strip_suffix('.').unwrap_or(host);
        self.names.iter().any(|name| name == host)
            || self.suffixes.iter().any(|suffix| host.ends_with(suffix.as_str()))
    }

    fn lists_address(&self, address: IpAddr) -> bool {
        self.nets.iter().any(|net| net.contains(&address))
    }

    /// Refuses a host that can lead nowhere that is allowed. What a name leads to is seen when
    /// it is resolved.
    pub(crate) fn check_host(&self, url: &Url) -> Result<()> {
        let refuse = |entry: &str| {
            let off = if self.is_empty() { "HTTP actions are off" } else { "it is not listed" };
            Err(Error::new(
                ErrorKind::Denied,
                format!(
                    "{url} may not be called: {off}; add {entry:?} to {SETTING} in forebay.toml"
                ),
            ))
        };
        match url.host() {
            Some(Host::Ipv4(address)) if !self.permits(false, address.into()) => {
                refuse(&address.to_string())
            }
            Some(Host::Ipv6(address)) if !self.permits(false, address.into()) => {
                refuse(&address.to_canonical().to_string())
            }
            Some(Host::Domain(host)) if !self.lists_name(host) && self.nets.is_empty() => {
                refuse(host)
            }
            None => Err(Error::invalid(format!("{url} has no host"))),
            _ => Ok(()),
        }
    }

    /// The addresses that a host may be reached at, of those it resolved to.
    pub(crate) fn filter(
        &self,
        host: &str,
        found: &[SocketAddr],
    ) -> std::result::Result<Vec<SocketAddr>, String> {
        let listed = self.lists_name(host);
        let permitted = found.iter().filter(|found| self.permits(listed, found.ip()));
        let permitted: Vec<SocketAddr> = permitted.copied().collect();
        let refused = found.first().filter(|_| permitted.is_empty());
        refused.map_or(Ok(permitted), |refused| {
            let address = refused.ip().to_canonical();
            Err(format!(
                "{host} leads to {address}, which may not be called; if it should, add \
                 \"{address}\" to {SETTING} in forebay.toml"
            ))
        })
    }

    /// Whether an address may be called, by a name that is listed or by none.
    fn permits(&self, listed: bool, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.lists_address(address) || (listed && is_public(address))
    }
}

/// Whether an address is one of the internet's.
fn is_public(address: IpAddr) -> bool {
    let within = |net: &str| net.parse::<IpNet>().is_ok_and(|net| net.contains(&address));
    if INNER.iter().any(|net| within(net)) {
        return false;
    }
    match address {
        IpAddr::V4(_) => true,
        IpAddr::V6(address) => carried(address).is_none_or(|inner| is_public(inner.into())),
    }
}

/// The IPv4 address that an IPv6 address stands for.
fn carried(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let octets = address.octets();
    CARRIERS.iter().find_map(|(prefix, at)| {
        let prefix: Ipv6Net = prefix.parse().ok()?;
        let inner = octets.get(*at..at + 4).filter(|_| prefix.contains(&address))?;
        <[u8; 4]>::try_from(inner).ok().map(Ipv4Addr::from)
    })
}
