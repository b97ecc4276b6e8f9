//! The HTTP clients: one without a client certificate, and one for each distinct client certificate in use, so that no
//! connection of one certificate serves another.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

use jiff::Timestamp;
use rustls::ClientConfig;
use rustls::client::ResolvesClientCert;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls_platform_verifier::Verifier;
use tokio::time::Instant;

use super::certificate::{Identity, Seen, fingerprint};
use super::{HttpTransportOptions, ProxySetting, TransportError};
use crate::failure::{Failure, FailureClass};
use crate::proxy::Proxy;
use crate::sync::lock;
use crate::token::ClientCertificate;

const USER_AGENT: &str = concat!("vendor-token-operator/", env!("CARGO_PKG_VERSION"));

pub(super) struct Clients {
    options: HttpTransportOptions,
    provider: Arc<CryptoProvider>,
    trusting: Mutex<Trusting>,
}

/// The clients that trust the present authorities.
struct Trusting {
    /// Shared by all clients, so that the system's authorities are held once.
    verifier: Arc<Verifier>,
    plain: reqwest::Client,
    by_certificate: HashMap<[u8; 32], CertificateClient>,
}

struct CertificateClient {
    client: reqwest::Client,
    seen: Arc<Seen>,
    not_after: Timestamp,
    last_used: Instant,
}

impl fmt::Debug for Clients {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Clients").finish_non_exhaustive()
    }
}

impl Clients {
    pub(super) fn new(options: HttpTransportOptions) -> Result<Self, TransportError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let additional = options.additional_authorities.as_deref();
        let trusting = Trusting::new(&options, &provider, additional)?;
        Ok(Self {
            options,
            provider,
            trusting: Mutex::new(trusting),
        })
    }

    /// Trusts the system's authorities and those of the bundle from now on, and no others. No connection that was made
    /// before is used again.
    pub(super) fn replace_authorities(&self, bundle: &[u8]) -> Result<(), TransportError> {
        let trusting = Trusting::new(&self.options, &self.provider, Some(bundle))?;
        *lock(&self.trusting) = trusting;
        Ok(())
    }

    /// The proxy on the way to `host`, if there is one.
    pub(super) fn proxy_to(&self, host: &str) -> Option<&Proxy> {
        let ProxySetting::Through(proxy) = &self.options.proxy else {
            return None;
        };
        proxy.to_host(host).map(|_| proxy)
    }

    pub(super) fn plain(&self) -> reqwest::Client {
        // Drops idle certificates also where none is used any more.
        self.without_idle().plain.clone()
    }

    /// The client for `certificate`, built at its first use, and the record of its servers.
    pub(super) fn with_certificate(
        &self,
        certificate: &ClientCertificate,
        now: Timestamp,
    ) -> Result<(reqwest::Client, Arc<Seen>), Failure> {
        let key = fingerprint(certificate);
        let mut trusting = self.without_idle();
        if let Some(entry) = trusting.by_certificate.get_mut(&key)
            && now < entry.not_after
        {
            entry.last_used = Instant::now();
            return Ok((entry.client.clone(), Arc::clone(&entry.seen)));
        }
        let refused = |text: String| Failure::new(FailureClass::Refused, &text);
        let identity =
            Identity::read(certificate, &self.provider, now).map_err(|error| refused(error.to_string()))?;
        let not_after = identity.not_after;
        let seen = Arc::new(Seen::default());
        let certificate = identity.resolver(Arc::clone(&seen));
        let tls = tls_config(&self.provider, &trusting.verifier, Some(certificate));
        let client = tls
            .ok()
            .and_then(|tls| client(&self.options, tls).ok())
            .ok_or_else(|| {
                refused(
                    "failed to set up TLS with the client certificate: check tls.crt and tls.key".to_owned(),
                )
            })?;
        let entries = &mut trusting.by_certificate;
        while entries.len() >= self.options.client_certificates.max(1) {
            let oldest = entries
                .iter()
                .min_by_key(|(_, entry)| entry.last_used)
                .map(|(key, _)| *key);
            match oldest {
                Some(oldest) => entries.remove(&oldest),
                None => break,
            };
        }
        entries.insert(
            key,
            CertificateClient {
                client: client.clone(),
                seen: Arc::clone(&seen),
                not_after,
                last_used: Instant::now(),
            },
        );
        Ok((client, seen))
    }

    /// Drops the clients of certificates that were not used for the idle timeout.
    fn without_idle(&self) -> MutexGuard<'_, Trusting> {
        let mut trusting = lock(&self.trusting);
        let limit = self.options.client_certificate_idle_timeout;
        trusting
            .by_certificate
            .retain(|_, entry| entry.last_used.elapsed() < limit);
        trusting
    }
}

impl Trusting {
    fn new(
        options: &HttpTransportOptions,
        provider: &Arc<CryptoProvider>,
        bundle: Option<&[u8]>,
    ) -> Result<Self, TransportError> {
        let additional = bundle.map_or(Ok(Vec::new()), authorities)?;
        let verifier = Verifier::new_with_extra_roots(additional, Arc::clone(provider))
            .map_err(TransportError::Authorities)?;
        let verifier = Arc::new(verifier);
        let tls = tls_config(provider, &verifier, None).map_err(TransportError::Tls)?;
        let plain = client(options, tls).map_err(TransportError::Client)?;
        Ok(Self {
            verifier,
            plain,
            by_certificate: HashMap::new(),
        })
    }
}

fn authorities(bundle: &[u8]) -> Result<Vec<CertificateDer<'static>>, TransportError> {
    let certificates = CertificateDer::pem_slice_iter(bundle)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| TransportError::Bundle(Some(error)))?;
    if certificates.is_empty() {
        return Err(TransportError::Bundle(None));
    }
    Ok(certificates)
}

fn tls_config(
    provider: &Arc<CryptoProvider>,
    verifier: &Arc<Verifier>,
    certificate: Option<Arc<dyn ResolvesClientCert>>,
) -> Result<ClientConfig, rustls::Error> {
    // rustls calls each verifier dangerous that is not built in; this one is the platform's.
    let builder = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(verifier) as Arc<_>);
    let mut config = match certificate {
        None => builder.with_no_client_auth(),
        Some(certificate) => builder.with_client_cert_resolver(certificate),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn client(options: &HttpTransportOptions, tls: ClientConfig) -> reqwest::Result<reqwest::Client> {
    let builder = reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .https_only(true)
        .http1_only()
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        .user_agent(USER_AGENT)
        .connect_timeout(options.connect_timeout)
        .pool_idle_timeout(options.idle_timeout)
        .pool_max_idle_per_host(options.idle_connections_per_endpoint);
    // Reading the environment by itself, the HTTP client would ignore a proxy that it cannot use, without an error.
    let builder = builder.no_proxy();
    let builder = match &options.proxy {
        ProxySetting::Off => builder,
        ProxySetting::Through(proxy) => {
            let exceptions = reqwest::NoProxy::from_string(proxy.exceptions());
            builder.proxy(reqwest::Proxy::https(proxy.url().clone())?.no_proxy(exceptions))
        }
    };
    builder.build()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::token::SecretString;

    fn certificate() -> ClientCertificate {
        let made = rcgen::generate_simple_self_signed(vec!["client.example".to_owned()]).unwrap();
        ClientCertificate {
            certificate_chain: SecretString::from(made.cert.pem()),
            private_key: SecretString::from(made.signing_key.serialize_pem()),
        }
    }

    fn clients() -> Clients {
        let authority = rcgen::generate_simple_self_signed(vec!["ca.example".to_owned()]).unwrap();
        Clients::new(HttpTransportOptions {
            client_certificates: 2,
            additional_authorities: Some(authority.cert.pem().into_bytes()),
            ..HttpTransportOptions::default()
        })
        .unwrap()
    }

    fn kept(clients: &Clients) -> Vec<[u8; 32]> {
        clients
            .trusting
            .lock()
            .unwrap()
            .by_certificate
            .keys()
            .copied()
            .collect()
    }

    #[tokio::test(start_paused = true)]
    async fn the_least_recently_used_of_too_many_certificates_is_dropped() {
        let (clients, now) = (clients(), Timestamp::now());
        let [first, second, third] = [certificate(), certificate(), certificate()];
        for used in [&first, &second, &first, &third] {
            clients.with_certificate(used, now).unwrap();
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        let kept = kept(&clients);
        assert_eq!(kept.len(), 2);
        assert!(kept.contains(&fingerprint(&first)) && kept.contains(&fingerprint(&third)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_certificate_that_is_idle_for_ten_minutes_is_dropped() {
        let clients = clients();
        clients
            .with_certificate(&certificate(), Timestamp::now())
            .unwrap();
        tokio::time::advance(Duration::from_secs(599)).await;
        clients.plain();
        assert_eq!(kept(&clients).len(), 1);
        tokio::time::advance(Duration::from_secs(1)).await;
        clients.plain();
        assert_eq!(kept(&clients).len(), 0);
    }

    #[test]
    fn a_certificate_that_expires_while_it_is_kept_is_refused() {
        let (clients, certificate) = (clients(), certificate());
        clients.with_certificate(&certificate, Timestamp::now()).unwrap();
        let failure = clients
            .with_certificate(&certificate, "4500-01-01T00:00:00Z".parse().unwrap())
            .unwrap_err();
        assert_eq!(failure.class, FailureClass::Refused);
        assert!(failure.message.contains("expired"), "{}", failure.message);
    }

    #[test]
    fn the_error_of_a_bundle_without_certificates_shows_their_form() {
        for bundle in ["", "not PEM", "-----BEGIN CERTIFICATE-----\nAA"] {
            let options = HttpTransportOptions {
                additional_authorities: Some(bundle.into()),
                ..Default::default()
            };
            let error = Clients::new(options).map(|_| ()).unwrap_err();
            assert!(error.to_string().contains("BEGIN CERTIFICATE"), "{error}");
        }
    }
}
