//! The API port's TLS: no client certificate, and a certificate for whichever AWS host name a
//! client believes it is talking to.
//!
//! Some programs hard-code an AWS address. Led here by a proxy, and told to trust our root,
//! they are shown a certificate for the name they ask for. Names are issued for AWS's domains
//! alone, so that our root's key can never be used through this port to pose as anybody else.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base::{Result, Timestamp};
use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::Authority;
use crate::authority::{Purpose, before, provider};
use crate::server::{OwnCertificate, broken, certified_key};

/// The domains whose hosts may be posed as.
const DOMAINS: [&str; 2] = ["amazonaws.com", "amazonaws.com.cn"];
/// Names kept at a time; a notebook needs about five.
const NAMES_MAX: usize = 256;
const VALID: Duration = Duration::from_secs(30 * 24 * 3600);
const RENEW_BEFORE: Duration = Duration::from_secs(24 * 3600);

impl Authority {
    /// TLS for the API: this server's own names, and AWS's for those led here by a proxy.
    pub fn web_config(self: &Arc<Self>, host_names: &[String]) -> Result<ServerConfig> {
        let own = OwnCertificate::load(Arc::clone(self), host_names)?;
        let names = ByName { authority: Arc::clone(self), own, issued: Mutex::default() };
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(broken("the TLS versions"))?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(names));
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }
}

/// Whether a host is one of AWS's.
pub fn is_aws_host(host: &str) -> bool {
    DOMAINS.iter().any(|domain| {
        host.len() > domain.len()
            && host.ends_with(domain)
            && host.as_bytes()[host.len() - domain.len() - 1] == b'.'
    })
}

struct ByName {
    authority: Arc<Authority>,
    own: OwnCertificate,
    issued: Mutex<BTreeMap<String, (Timestamp, Arc<CertifiedKey>)>>,
}

impl fmt::Debug for ByName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ByName").finish_non_exhaustive()
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        match hello.server_name().filter(|name| is_aws_host(name)).map(str::to_ascii_lowercase) {
            Some(name) => self.posing_as(&name),
            None => self.own.resolve(hello),
        }
    }
}

impl ByName {
    fn posing_as(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        let mut issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.authority.clock.now();
        if let Some((renew_at, key)) = issued.get(name)
            && now < *renew_at
        {
            return Some(Arc::clone(key));
        }
        match self.issue(name) {
            Ok((renew_at, key)) => {
                if issued.len() >= NAMES_MAX {
                    issued.pop_first();
                }
                issued.insert(name.to_owned(), (renew_at, Arc::clone(&key)));
                Some(key)
            }
            Err(error) => {
                tracing::warn!(name, %error, "failed to issue a certificate for an AWS host");
                None
            }
        }
    }

    fn issue(&self, name: &str) -> Result<(Timestamp, Arc<CertifiedKey>)> {
        let names = [name.to_owned()];
        let issued = self.authority.issue(&Purpose::Server { names: &names, valid: VALID })?;
        let key = certified_key(&issued.certificate_pem, issued.private_key_pem.expose())?;
        Ok((before(issued.not_after, RENEW_BEFORE), Arc::new(key)))
    }
}

#[cfg(test)]
mod tests {
    use super::is_aws_host;

    #[test]
    fn only_hosts_inside_awss_domains_are_posed_as() {
        for yes in ["sts.us-east-1.amazonaws.com", "b.s3.cn-north-1.amazonaws.com.cn"] {
            assert!(is_aws_host(yes), "{yes}");
        }
        for no in ["amazonaws.com", "evilamazonaws.com", "amazonaws.com.evil.org", "example.org"] {
            assert!(!is_aws_host(no), "{no}");
        }
    }
}
