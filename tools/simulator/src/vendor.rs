//! The five vendors: name, path, lifetime of tokens.

use std::fmt;
use std::str::FromStr;

/// A vendor, written as in `spec.vendor` of a VendorToken: `SixMap`, `SixClicks`, `CheckmarxSCA`, `Mapiq`, `Picus`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Vendor {
    /// SixMap, whose tokens are issued by Stytch.
    SixMap,
    /// The 6clicks Developer API.
    SixClicks,
    /// Checkmarx SCA, both regions.
    CheckmarxSca,
    /// Mapiq.
    Mapiq,
    /// Picus.
    Picus,
}

impl Vendor {
    /// All vendors, in the order of the documentation.
    pub const ALL: [Vendor; 5] = [
        Vendor::SixMap,
        Vendor::SixClicks,
        Vendor::CheckmarxSca,
        Vendor::Mapiq,
        Vendor::Picus,
    ];

    /// The name, as `spec.vendor` and the operator's `--endpoint` write it.
    pub fn name(self) -> &'static str {
        match self {
            Vendor::SixMap => "SixMap",
            Vendor::SixClicks => "SixClicks",
            Vendor::CheckmarxSca => "CheckmarxSCA",
            Vendor::Mapiq => "Mapiq",
            Vendor::Picus => "Picus",
        }
    }

    /// The path of the token endpoint, from the vendor's page.
    pub fn path(self) -> &'static str {
        match self {
            Vendor::SixMap => "/v1/public/project-live-da664296-f5e5-4302-872d-9824683c3c42/oauth2/token",
            Vendor::SixClicks => "/auth-api/1.0/auth/token",
            Vendor::CheckmarxSca => "/identity/connect/token",
            Vendor::Mapiq => "/api/public/oauth2/token",
            Vendor::Picus => "/v1/auth/token",
        }
    }

    /// Lifetime of the vendor's tokens in seconds.
    pub fn default_lifetime_seconds(self) -> u64 {
        match self {
            Vendor::SixMap | Vendor::CheckmarxSca | Vendor::Mapiq => 3600,
            Vendor::SixClicks => 86_400,
            Vendor::Picus => 7200,
        }
    }

    pub(crate) fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Vendor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// A name that is no vendor's.
#[derive(Debug, thiserror::Error)]
#[error("unknown vendor: one of SixMap, SixClicks, CheckmarxSCA, Mapiq, Picus is expected")]
pub struct UnknownVendor;

impl FromStr for Vendor {
    type Err = UnknownVendor;

    /// Reads a name in any case.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Vendor::ALL
            .into_iter()
            .find(|vendor| vendor.name().eq_ignore_ascii_case(text))
            .ok_or(UnknownVendor)
    }
}
