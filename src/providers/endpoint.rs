//! The origin of a token endpoint: scheme, host and port.

use std::fmt;

use url::Url;

use super::{UnknownVendor, Vendor};

/// Scheme, host and port of a token endpoint. Budgets and pauses are kept for each.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    /// As in `https://api.stytch.com`: scheme `https`, host, and a port only where it is not 443. No path.
    pub origin: String,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.origin)
    }
}

/// Error in a replacement of a vendor's endpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    #[error("write the endpoint as VENDOR=URL, as in SixMap=https://sixmap.example.com")]
    NoVendor,
    #[error(transparent)]
    Vendor(#[from] UnknownVendor),
    #[error("the endpoint is not a URL; write it as https://host or https://host:port")]
    NotAUrl(#[source] url::ParseError),
    #[error("the endpoint must begin with https://, as credentials are sent there")]
    NotHttps,
    #[error("the endpoint must have no {part}: write it as https://host or https://host:port")]
    TooMuch { part: &'static str },
    #[error("{host} is not the token endpoint: {hint}")]
    WrongHost { host: String, hint: &'static str },
}

impl Endpoint {
    /// Reads a replacement as on the command line, `VENDOR=URL`.
    pub fn parse_replacement(text: &str) -> Result<(Vendor, Self), EndpointError> {
        let (vendor, url) = text.split_once('=').ok_or(EndpointError::NoVendor)?;
        let vendor = vendor.parse()?;
        Ok((vendor, Self::parse(vendor, url)?))
    }

    /// Reads the URL of a replacement, `https://host[:port]`. Refuses any further part, and the known hosts of the
    /// vendor's other services with a hint at the right one.
    pub fn parse(vendor: Vendor, text: &str) -> Result<Self, EndpointError> {
        if text
            .chars()
            .any(|character| character.is_whitespace() || character.is_control())
        {
            return Err(EndpointError::TooMuch { part: "white space" });
        }
        let url = Url::parse(text).map_err(EndpointError::NotAUrl)?;
        if url.scheme() != "https" {
            return Err(EndpointError::NotHttps);
        }
        // The parser drops the empty user part of `https://@host`.
        let part = if !url.username().is_empty() || url.password().is_some() || text.contains('@') {
            Some("user or password")
        } else if url.query().is_some() {
            Some("query")
        } else if url.fragment().is_some() {
            Some("fragment")
        } else if url.path() != "/" {
            Some("path")
        } else {
            None
        };
        if let Some(part) = part {
            return Err(EndpointError::TooMuch { part });
        }
        if let Some((host, hint)) = url
            .host_str()
            .and_then(|host| Some((host, vendor.wrong_host(host)?)))
        {
            return Err(EndpointError::WrongHost {
                host: host.to_owned(),
                hint,
            });
        }
        Ok(Self {
            origin: url.origin().ascii_serialization(),
        })
    }
}

/// True for a host that is `domain` or lies in it.
pub(super) fn is_within(host: &str, domain: &str) -> bool {
    host.strip_suffix(domain)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("https://api.example.com", "https://api.example.com")]
    #[case("https://API.example.com/", "https://api.example.com")]
    #[case("https://api.example.com:443", "https://api.example.com")]
    #[case("https://api.example.com:8443", "https://api.example.com:8443")]
    #[case("https://127.0.0.1:8443", "https://127.0.0.1:8443")]
    #[case("https://[::1]:8443", "https://[::1]:8443")]
    fn an_endpoint_is_an_origin(#[case] text: &str, #[case] origin: &str) {
        for vendor in Vendor::ALL {
            assert_eq!(
                Endpoint::parse(vendor, text),
                Ok(Endpoint {
                    origin: origin.to_owned()
                })
            );
        }
    }

    // edge case 9
    #[rstest]
    #[case(
        "api.example.com",
        "the endpoint is not a URL; write it as https://host or https://host:port"
    )]
    #[case(
        "https://",
        "the endpoint is not a URL; write it as https://host or https://host:port"
    )]
    #[case(
        "http://api.example.com",
        "the endpoint must begin with https://, as credentials are sent there"
    )]
    #[case(
        "https://u:p@host",
        "the endpoint must have no user or password: write it as https://host or https://host:port"
    )]
    #[case(
        "https://@host",
        "the endpoint must have no user or password: write it as https://host or https://host:port"
    )]
    #[case(
        "https://host/v1/auth/token",
        "the endpoint must have no path: write it as https://host or https://host:port"
    )]
    #[case(
        "https://host?",
        "the endpoint must have no query: write it as https://host or https://host:port"
    )]
    #[case(
        "https://host/#",
        "the endpoint must have no fragment: write it as https://host or https://host:port"
    )]
    #[case(
        "https://ho\nst",
        "the endpoint must have no white space: write it as https://host or https://host:port"
    )]
    fn anything_more_or_less_is_refused(#[case] text: &str, #[case] message: &str) {
        assert_eq!(
            Endpoint::parse(Vendor::SixMap, text).unwrap_err().to_string(),
            message
        );
    }

    // edge case 9
    #[rstest]
    #[case(
        Vendor::CheckmarxSca,
        "https://iam.checkmarx.net",
        "https://platform.checkmarx.net"
    )]
    #[case(
        Vendor::CheckmarxSca,
        "https://eu.iam.checkmarx.net",
        "https://eu.platform.checkmarx.net"
    )]
    #[case(
        Vendor::CheckmarxSca,
        "https://api-sca.checkmarx.net",
        "https://platform.checkmarx.net"
    )]
    #[case(
        Vendor::Picus,
        "https://app.picussecurity.com",
        "https://api.picussecurity.com"
    )]
    #[case(Vendor::SixClicks, "https://app-au.6clicks.io", "api-")]
    #[case(Vendor::Mapiq, "https://api.mapiq.com", "https://account.mapiq.com")]
    #[case(Vendor::SixMap, "https://api-sixmap.sixmaptech.com", "https://api.stytch.com")]
    #[case(
        Vendor::CheckmarxSca,
        "https://eu.sca.checkmarx.net",
        "from https://eu.platform.checkmarx.net"
    )]
    #[case(
        Vendor::CheckmarxSca,
        "https://sca.checkmarx.net",
        "from https://platform.checkmarx.net"
    )]
    #[case(
        Vendor::CheckmarxSca,
        "https://eu.api-sca.checkmarx.net.",
        "from https://eu.platform.checkmarx.net"
    )]
    #[case(
        Vendor::CheckmarxSca,
        "https://docs.checkmarx.com",
        "from https://platform.checkmarx.net"
    )]
    #[case(
        Vendor::CheckmarxSca,
        "https://eu.ast.checkmarx.net",
        "https://eu.platform.checkmarx.net"
    )]
    #[case(
        Vendor::Picus,
        "https://apidocs.picussecurity.com",
        "https://api.picussecurity.com"
    )]
    #[case(
        Vendor::Picus,
        "https://www.picussecurity.com",
        "https://api.picussecurity.com"
    )]
    #[case(Vendor::SixClicks, "https://APP-EU.6clicks.io", "api-")]
    #[case(
        Vendor::SixClicks,
        "https://www.6clicks.com",
        "https://api-<region>.6clicks.io"
    )]
    #[case(Vendor::Mapiq, "https://developer.mapiq.com", "https://account.mapiq.com")]
    #[case(Vendor::Mapiq, "https://app.mapiq.com", "https://account.mapiq.com")]
    #[case(
        Vendor::SixMap,
        "https://external.docs.sixmaptech.com",
        "https://api.stytch.com"
    )]
    #[case(Vendor::SixMap, "https://stytch.com", "https://api.stytch.com")]
    #[case(Vendor::SixMap, "https://account.mapiq.com", "another vendor")]
    #[case(Vendor::Mapiq, "https://platform.checkmarx.net:8443", "another vendor")]
    fn a_vendors_other_hosts_are_refused_with_the_right_one(
        #[case] vendor: Vendor,
        #[case] text: &str,
        #[case] suggestion: &str,
    ) {
        let error = Endpoint::parse(vendor, text).unwrap_err();
        assert!(matches!(error, EndpointError::WrongHost { .. }), "{error}");
        assert!(error.to_string().contains(suggestion), "{error}");
    }

    #[rstest]
    #[case(Vendor::CheckmarxSca, "https://platform.checkmarx.net")]
    #[case(Vendor::CheckmarxSca, "https://us2.platform.checkmarx.net")]
    #[case(Vendor::CheckmarxSca, "https://notcheckmarx.net")]
    #[case(Vendor::SixMap, "https://test.stytch.com")]
    #[case(Vendor::SixClicks, "https://api-uk.6clicks.io")]
    #[case(Vendor::Mapiq, "https://mapiq.com.gateway.example")]
    #[case(Vendor::Picus, "https://picussecurity.com.example")]
    fn a_token_endpoint_and_a_host_elsewhere_are_taken(#[case] vendor: Vendor, #[case] text: &str) {
        assert_eq!(
            Endpoint::parse(vendor, text).map(|endpoint| endpoint.origin),
            Ok(text.to_owned())
        );
    }

    #[test]
    fn a_replacement_names_its_vendor() {
        assert_eq!(
            Endpoint::parse_replacement("Picus=https://localhost:8443"),
            Ok((
                Vendor::Picus,
                Endpoint {
                    origin: "https://localhost:8443".to_owned()
                }
            ))
        );
        let message = |text| Endpoint::parse_replacement(text).unwrap_err().to_string();
        assert_eq!(
            message("https://localhost"),
            "write the endpoint as VENDOR=URL, as in SixMap=https://sixmap.example.com"
        );
        assert_eq!(
            message("picus=https://localhost"),
            "unknown vendor: use SixMap, SixClicks, CheckmarxSCA, Mapiq or Picus"
        );
    }
}
