//! Values of flags that have a form of their own.

use std::num::NonZeroU32;

use crate::providers::{Endpoint, EndpointError, UnknownVendor, Vendor};

/// How many requests a minute are allowed to one endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit(Option<NonZeroU32>);

impl RateLimit {
    /// The number; `None` is no limit.
    pub fn per_minute(self) -> Option<u32> {
        self.0.map(NonZeroU32::get)
    }
}

/// Why a rate limit is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RateLimitError {
    /// Not in the form.
    #[error("write the limit as VENDOR=N or VENDOR=N/min, as in Mapiq=20/min; VENDOR=0 is no limit")]
    Form,
    /// No such vendor.
    #[error(transparent)]
    Vendor(#[from] UnknownVendor),
    /// Too many.
    #[error("the limit must be at most 1000000 a minute; VENDOR=0 is no limit")]
    TooLarge,
}

pub(super) fn rate_limit(text: &str) -> Result<(Vendor, RateLimit), RateLimitError> {
    let (vendor, limit) = text.split_once('=').ok_or(RateLimitError::Form)?;
    let vendor = vendor.parse()?;
    let limit = limit.strip_suffix("/min").unwrap_or(limit);
    if limit.is_empty() || !limit.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(RateLimitError::Form);
    }
    let limit = limit
        .parse()
        .ok()
        .filter(|limit| *limit <= 1_000_000)
        .ok_or(RateLimitError::TooLarge)?;
    Ok((vendor, RateLimit(NonZeroU32::new(limit))))
}

pub(super) fn endpoint(text: &str) -> Result<(Vendor, Endpoint), EndpointError> {
    Endpoint::parse_replacement(text)
}

/// A DNS label (RFC 1123), as the names of namespaces are.
pub(super) fn namespace(text: &str) -> Result<String, &'static str> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let ends = text.starts_with('-') || text.ends_with('-');
    if (1..=63).contains(&text.len()) && text.bytes().all(allowed) && !ends {
        Ok(text.to_owned())
    } else {
        Err("the name of a namespace has 1 to 63 lower-case letters, digits and '-', and no '-' at its ends")
    }
}
