//! The control plane's own certificate authority, certificates and keys. They live as long as its folder.

use std::io::Write;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};

use crate::Error;

/// A certificate authority of this control plane.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate with its key, both PEM.
pub(crate) struct Identity {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Result<Self, Error> {
        let failed = |source| Error::Certificate {
            subject: name.to_owned(),
            source,
        };
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate().map_err(failed)?;
        CertifiedIssuer::self_signed(parameters, key)
            .map(Self)
            .map_err(failed)
    }

    pub(crate) fn certificate(&self) -> String {
        self.0.pem()
    }

    /// A server's certificate for the given DNS names and IP addresses.
    pub(crate) fn server(&self, name: &str, addresses: &[&str]) -> Result<Identity, Error> {
        let failed = |source| Error::Certificate {
            subject: name.to_owned(),
            source,
        };
        let addresses: Vec<String> = addresses.iter().map(|&address| address.to_owned()).collect();
        let mut parameters = CertificateParams::new(addresses).map_err(failed)?;
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.issue(parameters, name)
    }

    /// A client's certificate: Kubernetes takes the common name as the user and the organization as the group.
    pub(crate) fn client(&self, user: &str, group: Option<&str>) -> Result<Identity, Error> {
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name.push(DnType::CommonName, user);
        if let Some(group) = group {
            parameters
                .distinguished_name
                .push(DnType::OrganizationName, group);
        }
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(parameters, user)
    }

    fn issue(&self, parameters: CertificateParams, subject: &str) -> Result<Identity, Error> {
        let failed = |source| Error::Certificate {
            subject: subject.to_owned(),
            source,
        };
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = parameters.signed_by(&key, &self.0).map_err(failed)?;
        Ok(Identity {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }
}

/// A key pair for signing service account tokens: the private and the public key, both PEM.
pub(crate) fn signing_key() -> Result<(String, String), Error> {
    let key = KeyPair::generate().map_err(|source| Error::Certificate {
        subject: "the service account issuer".to_owned(),
        source,
    })?;
    Ok((key.serialize_pem(), key.public_key_pem()))
}

/// Writes a file that only its owner can read.
pub(crate) fn write_private(path: &Path, content: &str) -> Result<PathBuf, Error> {
    // Moved into place whole: another test may be reading the same file. A temporary file is readable by us alone.
    let write = || {
        let mut file = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(Path::new(".")))?;
        file.write_all(content.as_bytes())?;
        file.persist(path).map_err(|error| error.error)
    };
    write().map_err(Error::io(format!("write {}", path.display())))?;
    Ok(path.to_owned())
}
