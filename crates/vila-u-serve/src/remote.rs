//! Pictures and videos of other servers, fetched only where the operator allows it: from public addresses, without
//! redirects, within limits of size and time.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use ureq::{
    Agent,
    config::Config,
    http::Uri,
    unversioned::{
        resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver},
        transport::{DefaultConnector, NextTimeout},
    },
};

use crate::{body::MAX_BYTES, errors::ApiError};

/// Contents that are fetched, or fetched and not yet decoded, at the same time.
const AT_ONCE: usize = 8;
const TIMEOUT: Duration = Duration::from_secs(20);

pub struct Remote {
    agent: Agent,
    at_once: Arc<Semaphore>,
}

impl Remote {
    pub fn new() -> Self {
        let config = Agent::config_builder()
            .timeout_global(Some(TIMEOUT))
            .max_redirects(0)
            .http_status_as_error(false)
            // One of the environment would resolve the names itself.
            .proxy(None)
            .max_idle_connections(0)
            .user_agent("vila-u")
            .build();
        let resolver = PublicResolver(DefaultResolver::default());
        Self {
            agent: Agent::with_parts(config, DefaultConnector::default(), resolver),
            at_once: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }

    /// The content at an http or https URL, with its share of how much is held at the same time.
    pub async fn fetch(&self, url: String) -> Result<(Vec<u8>, OwnedSemaphorePermit), ApiError> {
        let closed = |_| ApiError::unavailable("the server is shutting down");
        let permit = self.at_once.clone().acquire_owned().await;
        let permit = permit.map_err(closed)?;
        let agent = self.agent.clone();
        let fetched =
            tokio::task::spawn_blocking(move || fetch(&agent, &url).map(|bytes| (bytes, permit)));
        let fetched = fetched
            .await
            .unwrap_or_else(|_| Err("the request failed".into()));
        fetched.map_err(|reason| ApiError::invalid(format!("the URL cannot be fetched: {reason}")))
    }
}

fn fetch(agent: &Agent, url: &str) -> Result<Vec<u8>, String> {
    let response = agent.get(url).call();
    let mut response = response.map_err(|error| match error {
        ureq::Error::HostNotFound => "its server is unknown, or not at a public address".into(),
        ureq::Error::Timeout(_) => format!("it took longer than {} seconds", TIMEOUT.as_secs()),
        error => error.to_string(),
    })?;
    let status = response.status();
    if status.is_redirection() {
        return Err(
            "it is a redirect, which is not followed: give the address that it leads to".into(),
        );
    }
    if !status.is_success() {
        return Err(format!("its server answers {status}"));
    }
    let body = response.body_mut().with_config().limit(MAX_BYTES as u64);
    body.read_to_vec().map_err(|error| match error {
        ureq::Error::BodyExceedsLimit(_) => format!("it is larger than {} MB", MAX_BYTES >> 20),
        ureq::Error::Timeout(_) => format!("it took longer than {} seconds", TIMEOUT.as_secs()),
        error => error.to_string(),
    })
}

/// Gives public addresses alone. They are what is then connected to: the name is not looked up again.
#[derive(Debug)]
struct PublicResolver(DefaultResolver);

impl Resolver for PublicResolver {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let all = self.0.resolve(uri, config, timeout)?;
        // A name with a private address among others is not to be trusted at all.
        if all.iter().all(|address| is_public(address.ip())) {
            Ok(all)
        } else {
            Err(ureq::Error::HostNotFound)
        }
    }
}

/// Whether an address is one of the open internet (IANA special-purpose address registries).
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => match address.to_ipv4_mapped() {
            Some(_) => false,
            None => is_public_v6(address),
        },
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let special = address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_documentation()
        || address.is_multicast();
    let special = special
        || match address.octets() {
            // This network; shared by carriers; protocol assignments; benchmarks; reserved.
            [0, ..] | [192, 0, 0, _] | [198, 18 | 19, ..] | [240..=255, ..] => true,
            [100, second, ..] => second & 0xc0 == 64,
            _ => false,
        };
    !special
}

/// Those for single hosts without what carries an IPv4 address (6to4, Teredo) and what is kept for protocols and
/// documentation.
fn is_public_v6(address: Ipv6Addr) -> bool {
    match address.segments() {
        [0x2001, 0..0x200, ..] | [0x2001, 0xdb8, ..] | [0x2002, ..] | [0x3fff, 0..0x1000, ..] => {
            false
        }
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_the_open_internet_are_public() {
        for address in [
            "1.1.1.1",
            "93.184.216.34",
            "2606:4700::1111",
            "2a00:1450:4001::1",
        ] {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
        for address in [
            "0.0.0.0",
            "10.0.0.1",
            "100.64.0.1",
            "100.127.9.9",
            "127.0.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "192.0.0.8",
            "192.168.1.1",
            "198.18.0.1",
            "203.0.113.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:1.1.1.1",
            "::ffff:127.0.0.1",
            "::127.0.0.1",
            "64:ff9b::a00:1",
            "fc00::1",
            "fe80::1",
            "ff02::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::1",
            "3fff::1",
            "fec0::1",
        ] {
            assert!(!is_public(address.parse().unwrap()), "{address}");
        }
    }
}
