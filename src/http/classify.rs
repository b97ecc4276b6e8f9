//! Classification of the HTTP client's errors as [`Failure`]s, by the types in the chain of sources and not by their
//! text. A message names the host, the fault and its cure; it holds no path, no query and nothing that a peer sent.

use std::error::Error;
use std::io;
use std::time::Duration;

use rustls::{AlertDescription, CertificateError};

use crate::failure::{Failure, FailureClass};
use crate::proxy::Proxy;

fn transient(message: String) -> Failure {
    Failure::new(FailureClass::Transient, &message)
}

fn refused(message: String) -> Failure {
    Failure::new(FailureClass::Refused, &message)
}

fn malformed(message: String) -> Failure {
    Failure::new(FailureClass::Malformed, &message)
}

pub(super) fn timed_out(host: &str, limit: Duration) -> Failure {
    transient(format!(
        "no complete answer from {host} within {} s",
        limit.as_secs_f64()
    ))
}

pub(super) fn too_large(host: &str, limit: usize) -> Failure {
    malformed(format!(
        "the answer of {host} is larger than {limit} bytes, so it is no token response"
    ))
}

/// Classifies an error of sending a request to `host`, or of reading its response. `proxy` is the proxy on the way.
pub(super) fn exchange(error: &reqwest::Error, host: &str, proxy: Option<&Proxy>) -> Failure {
    let chain = chain(error);
    let hyper = chain.iter().find_map(|e| e.downcast_ref::<hyper::Error>());
    let tls = chain.iter().find_map(|e| e.downcast_ref::<rustls::Error>());
    let refused_connection = has_io_error(&chain, &[io::ErrorKind::ConnectionRefused]);

    if let Some(proxy) = proxy
        && let Some(tunnel) = tunnel_error(&chain)
    {
        return match tunnel {
            TunnelError::NotReached if error.is_dns() => transient(format!(
                "failed to resolve the proxy {proxy}: check its name, and the cluster's DNS"
            )),
            TunnelError::NotReached if refused_connection => transient(format!(
                "the proxy {proxy} refused the connection: check its port"
            )),
            TunnelError::NotReached if tls.is_some() => refused(format!(
                "the TLS handshake with the proxy {proxy} failed: pass its CA with --vendor-ca-file, or write it with \
                 http://"
            )),
            TunnelError::NotReached => transient(format!(
                "failed to connect to the proxy {proxy}: check the network and its egress policy"
            )),
            TunnelError::LoginRequired => transient(format!(
                "the proxy {proxy} asks for a login (407): put user and password into its URL"
            )),
            TunnelError::Refused => transient(format!(
                "the proxy {proxy} refused a tunnel to {host}: allow that host there, or add it to NO_PROXY"
            )),
            TunnelError::Broken => transient(format!(
                "the proxy {proxy} opened no tunnel to {host}: check that it is an HTTP proxy"
            )),
        };
    }
    if let Some(tls) = tls {
        return tls_failure(tls, host, error.is_connect());
    }
    if error.is_dns() {
        return transient(format!(
            "failed to resolve {host}: check the cluster's DNS and its egress policy"
        ));
    }
    let through = proxy.map_or(String::new(), |proxy| format!(" through the proxy {proxy}"));
    if error.is_timeout() {
        return transient(if error.is_connect() {
            format!("failed to connect to {host}{through} in time: check the network and its egress policy")
        } else {
            format!("no complete answer from {host}{through} in time")
        });
    }
    if refused_connection {
        return transient(format!("{host} refused the connection"));
    }
    if has_io_error(
        &chain,
        &[io::ErrorKind::HostUnreachable, io::ErrorKind::NetworkUnreachable],
    ) {
        return transient(format!(
            "no route to {host}: check the network, its egress policy and the proxy"
        ));
    }
    if hyper.is_some_and(|e| e.is_parse() || e.is_parse_too_large()) {
        return malformed(format!("{host} answered with something that is not HTTP"));
    }
    if is_cut_off(&chain) {
        return transient(if error.is_connect() {
            format!("{host} (or a proxy before it) closed the connection during the TLS handshake")
        } else {
            format!("{host} closed the connection before its answer was complete")
        });
    }
    transient(if error.is_connect() {
        format!("failed to connect to {host}{through}")
    } else {
        format!("failed to get an answer from {host}{through}")
    })
}

fn has_io_error(chain: &[&(dyn Error + 'static)], wanted: &[io::ErrorKind]) -> bool {
    chain.iter().any(|e| {
        e.downcast_ref::<io::Error>()
            .is_some_and(|e| wanted.contains(&e.kind()))
    })
}

/// True where the other side closed the connection before it had answered.
fn is_cut_off(chain: &[&(dyn Error + 'static)]) -> bool {
    let hyper = chain.iter().find_map(|e| e.downcast_ref::<hyper::Error>());
    hyper.is_some_and(|e| e.is_incomplete_message() || e.is_closed() || e.is_canceled())
        || has_io_error(
            chain,
            &[
                io::ErrorKind::ConnectionReset,
                io::ErrorKind::ConnectionAborted,
                io::ErrorKind::BrokenPipe,
                io::ErrorKind::UnexpectedEof,
                io::ErrorKind::NotConnected,
            ],
        )
}

/// True where a server ended the connection after the handshake without an answer, by closing it or by a TLS alert.
pub(super) fn is_end_after_request(error: &reqwest::Error) -> bool {
    let chain = chain(error);
    let has_alert = chain
        .iter()
        .any(|e| matches!(e.downcast_ref(), Some(rustls::Error::AlertReceived(_))));
    !error.is_connect() && (has_alert || is_cut_off(&chain))
}

/// The failure of a request with a client certificate whose server has never asked for it, and has never answered.
pub(super) fn asks_for_the_certificate_late(host: &str) -> Failure {
    refused(format!(
        "{host} ended the connection, and had not asked for the client certificate in the TLS handshake: a server that \
         asks for it only after the request cannot be served; ask the vendor to ask in the handshake"
    ))
}

/// A fault between this process and the proxy, before there is a tunnel.
#[derive(Clone, Copy)]
enum TunnelError {
    /// No connection to the proxy.
    NotReached,
    LoginRequired,
    Refused,
    Broken,
}

/// Recognises hyper-util's tunnel error by its text, since its type is not public. Should the text change, the failure
/// stays transient, with a general message.
fn tunnel_error(chain: &[&(dyn Error + 'static)]) -> Option<TunnelError> {
    let mut texts = chain.iter().map(ToString::to_string);
    let found = texts.find_map(|text| text.strip_prefix("tunnel error: ").map(str::to_owned));
    found.map(|text| match text.as_str() {
        "failed to create underlying connection" => TunnelError::NotReached,
        "proxy authorization required" => TunnelError::LoginRequired,
        "unsuccessful" => TunnelError::Refused,
        _ => TunnelError::Broken,
    })
}

/// Classifies a TLS failure. It comes from the endpoint or the client certificate, never from the credential.
fn tls_failure(error: &rustls::Error, host: &str, connecting: bool) -> Failure {
    match error {
        rustls::Error::InvalidCertificate(reason) => refused(certificate_message(reason, host)),
        rustls::Error::AlertReceived(alert) => alert_failure(*alert, host),
        rustls::Error::InvalidMessage(_) | rustls::Error::InappropriateMessage { .. } if connecting => {
            refused(format!(
                "{host} does not answer with TLS: check scheme and port of --endpoint"
            ))
        }
        rustls::Error::PeerIncompatible(_) | rustls::Error::NoApplicationProtocol => refused(format!(
            "{host} offers no TLS 1.2 or later with HTTP/1.1: its administrator must enable it"
        )),
        rustls::Error::NoCertificatesPresented => refused(format!("{host} presented no certificate")),
        _ if connecting => refused(format!("the TLS handshake with {host} failed")),
        // A damaged record in an established connection is no fault of the endpoint.
        _ => transient(format!("the TLS connection to {host} broke")),
    }
}

fn certificate_message(reason: &CertificateError, host: &str) -> String {
    match reason {
        CertificateError::UnknownIssuer => format!(
            "the certificate of {host} is not signed by a trusted authority: where a proxy or a private endpoint \
             answers, pass its CA with --vendor-ca-file"
        ),
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            format!(
                "the certificate of {host} has expired: it must be renewed there (or the node's clock is wrong)"
            )
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            format!("the certificate of {host} is not valid yet: check the node's clock")
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            format!("the certificate of {host} is for another name: check --endpoint, DNS and the proxy")
        }
        CertificateError::Revoked => format!("the certificate of {host} has been revoked"),
        _ => format!(
            "the certificate of {host} is not usable for a server: where a proxy or a private endpoint answers, \
             use a certificate issued by a CA and pass that CA with --vendor-ca-file"
        ),
    }
}

fn alert_failure(alert: AlertDescription, host: &str) -> Failure {
    match alert {
        AlertDescription::CertificateRequired => refused(format!(
            "{host} requires a client certificate: set clientCertificateSecretRef"
        )),
        AlertDescription::BadCertificate
        | AlertDescription::NoCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnknownCA
        | AlertDescription::AccessDenied
        | AlertDescription::DecryptError => refused(format!(
            "{host} refused the client certificate: check that the one in clientCertificateSecretRef is registered \
             with the key, is current, and has its chain in tls.crt"
        )),
        AlertDescription::HandshakeFailure => refused(format!(
            "{host} refused the TLS handshake: it offers no TLS 1.2 or later with a common cipher, or it requires a \
             client certificate"
        )),
        AlertDescription::ProtocolVersion | AlertDescription::InsufficientSecurity => refused(format!(
            "{host} offers no TLS 1.2 or later: its administrator must enable it"
        )),
        AlertDescription::UnrecognisedName => refused(format!(
            "{host} does not serve that name over TLS: check --endpoint, DNS and the proxy"
        )),
        AlertDescription::InternalError | AlertDescription::UserCanceled | AlertDescription::CloseNotify => {
            transient(format!("{host} gave up the TLS connection by itself"))
        }
        _ => refused(format!("{host} refused the TLS handshake")),
    }
}

/// The error and all its sources, with the one inside of an `io::Error`, which its `source()` skips.
fn chain<'a>(error: &'a (dyn Error + 'static)) -> Vec<&'a (dyn Error + 'static)> {
    let mut found: Vec<&'a (dyn Error + 'static)> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        found.push(error);
        next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_inside_of_two_io_errors_is_found() {
        let tls = rustls::Error::AlertReceived(AlertDescription::UnknownCA);
        let wrapped = io::Error::other(io::Error::new(io::ErrorKind::InvalidData, tls));
        assert!(chain(&wrapped).iter().any(|error| error.is::<rustls::Error>()));
    }

    #[test]
    fn no_message_with_a_usual_host_is_cut() {
        let host = "api-australiasoutheast.6clicks.example:8443";
        let alerts = (0..=255)
            .map(AlertDescription::from)
            .map(|alert| alert_failure(alert, host).message);
        let reasons = [
            CertificateError::UnknownIssuer,
            CertificateError::Expired,
            CertificateError::NotValidYet,
            CertificateError::NotValidForName,
            CertificateError::Revoked,
            CertificateError::InvalidPurpose,
        ];
        let reasons = reasons.iter().map(|reason| certificate_message(reason, host));
        let late = [asks_for_the_certificate_late(host).message];
        for message in alerts.chain(reasons).chain(late) {
            assert!(message.chars().count() < 256, "{message}");
        }
    }

    #[test]
    fn a_damaged_record_in_an_established_connection_is_transient() {
        let failure = tls_failure(&rustls::Error::DecryptError, "h", false);
        assert_eq!(failure.class, FailureClass::Transient);
    }

    #[test]
    fn a_damaged_record_in_a_handshake_is_refused() {
        let failure = tls_failure(&rustls::Error::DecryptError, "h", true);
        assert_eq!(failure.class, FailureClass::Refused);
    }

    #[derive(Debug)]
    struct NoSuchHost;

    impl reqwest::dns::Resolve for NoSuchHost {
        fn resolve(&self, _: reqwest::dns::Name) -> reqwest::dns::Resolving {
            Box::pin(async { Err(io::Error::other("no such host").into()) })
        }
    }

    #[tokio::test]
    async fn a_name_that_does_not_resolve_is_transient() {
        let client = reqwest::Client::builder()
            .no_proxy()
            .dns_resolver(std::sync::Arc::new(NoSuchHost))
            .build()
            .unwrap();
        let error = client
            .post("https://vendor.example/token")
            .send()
            .await
            .unwrap_err();
        let failure = exchange(&error, "vendor.example", None);
        assert_eq!(failure.class, FailureClass::Transient);
        assert!(
            failure.message.contains("failed to resolve vendor.example"),
            "{}",
            failure.message
        );
    }
}
