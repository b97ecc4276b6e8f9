//! Certificates: the simulator's own authority, servers good and bad, and clients.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme};

use crate::digest::sha256;
use crate::error::Error;

/// The certificate that a vendor's listener presents and the one that it asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsMode {
    /// A good certificate; a client certificate is optional, and a missing one is a 401 where a key needs it.
    #[default]
    Trusted,
    /// A certificate that has expired.
    Expired,
    /// A certificate for another host.
    WrongHost,
    /// A certificate of an authority that nobody trusts.
    Untrusted,
    /// A good certificate; a client without a certificate of the client authority gets a TLS alert.
    ClientCertificateRequired,
}

/// A client certificate for mutual TLS.
#[derive(Clone)]
pub struct ClientCertificate {
    /// The certificate, PEM.
    pub certificate_pem: String,
    /// Its private key, PKCS #8 PEM.
    pub key_pem: String,
    /// SHA-256 of the certificate in hexadecimal, as a credential is registered with it.
    pub fingerprint: String,
}

impl std::fmt::Debug for ClientCertificate {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("ClientCertificate")
            .field("fingerprint", &self.fingerprint)
            .finish_non_exhaustive()
    }
}

struct Root {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    der: CertificateDer<'static>,
}

impl Root {
    fn new(name: &str) -> Result<Self, Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?;
        let (pem, der) = (certificate.pem(), certificate.der().clone());
        Ok(Self {
            issuer: Issuer::new(params, key),
            pem,
            der,
        })
    }

    fn server(&self, names: &[&str], expired: bool) -> Result<Identity, Error> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names)?;
        params
            .distinguished_name
            .push(DnType::CommonName, "vendor-simulator");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        if expired {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2020, 12, 31);
        }
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Identity {
            chain: vec![certificate.der().clone()],
            key: key.serialize_der(),
        })
    }
}

struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: Vec<u8>,
}

/// The authorities and the TLS configuration of each mode.
pub(crate) struct Authority {
    servers: Root,
    clients: Root,
    stranger: Root,
    provider: Arc<CryptoProvider>,
}

impl Authority {
    pub(crate) fn new() -> Result<Self, Error> {
        Ok(Self {
            servers: Root::new("vendor-simulator CA")?,
            clients: Root::new("vendor-simulator client CA")?,
            stranger: Root::new("a CA that nobody trusts")?,
            provider: Arc::new(aws_lc_rs::default_provider()),
        })
    }

    pub(crate) fn ca_pem(&self) -> &str {
        &self.servers.pem
    }

    /// Mints a client certificate, by the client authority or, `stranger`, by one that nobody trusts.
    pub(crate) fn client_certificate(&self, name: &str, stranger: bool) -> Result<ClientCertificate, Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate()?;
        let root = if stranger { &self.stranger } else { &self.clients };
        let certificate = params.signed_by(&key, &root.issuer)?;
        Ok(ClientCertificate {
            certificate_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            fingerprint: sha256(certificate.der()),
        })
    }

    /// The configuration of a listener; `mutual` where the vendor knows client certificates.
    pub(crate) fn server_config(&self, mode: TlsMode, mutual: bool) -> Result<Arc<ServerConfig>, Error> {
        let here = ["localhost", "127.0.0.1"];
        let identity = match mode {
            TlsMode::Trusted | TlsMode::ClientCertificateRequired => self.servers.server(&here, false)?,
            TlsMode::Expired => self.servers.server(&here, true)?,
            TlsMode::WrongHost => self.servers.server(&["elsewhere.invalid"], false)?,
            TlsMode::Untrusted => self.stranger.server(&here, false)?,
        };
        let mut roots = RootCertStore::empty();
        roots.add(self.clients.der.clone())?;
        let strict = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.provider))
            .build()?;
        let verifier: Arc<dyn ClientCertVerifier> = match mode {
            TlsMode::ClientCertificateRequired => strict,
            _ if mutual => Arc::new(AnyCertificate { signatures: strict }),
            _ => WebPkiClientVerifier::no_client_auth(),
        };
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_single_cert(
                identity.chain,
                PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(identity.key)),
            )?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

/// Takes any client certificate whose key the client holds: whether it is the right one is judged with the
/// API key, since the vendor registers certificates with keys.
#[derive(Debug)]
struct AnyCertificate {
    signatures: Arc<dyn ClientCertVerifier>,
}

impl ClientCertVerifier for AnyCertificate {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signatures.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signatures.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.signatures.supported_verify_schemes()
    }
}
