//! Values of flags with a syntax of their own.

use std::num::NonZeroU32;

use crate::providers::{Endpoint, EndpointError, UnknownVendor, Vendor};

/// Rate limit of one endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit(Option<NonZeroU32>);

impl RateLimit {
    /// Requests a minute; `None` for no limit.
    pub fn per_minute(self) -> Option<u32> {
        self.0.map(NonZeroU32::get)
    }
}

/// Error in a rate limit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RateLimitError {
    /// The text has not the form `VENDOR=N`.
    #[error("write the limit as VENDOR=N or VENDOR=N/min, as in Mapiq=20/min; VENDOR=0 is no limit")]
    Form,
    /// The vendor is unknown.
    #[error(transparent)]
    Vendor(#[from] UnknownVendor),
    /// The limit is above a million.
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

/// Reads the name of a namespace, a DNS label (RFC 1123).
pub(super) fn namespace(text: &str) -> Result<String, &'static str> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let ends = text.starts_with('-') || text.ends_with('-');
    if (1..=63).contains(&text.len()) && text.bytes().all(allowed) && !ends {
        Ok(text.to_owned())
    } else {
        Err("the name of a namespace has 1 to 63 lower-case letters, digits and '-', and no '-' at its ends")
    }
}
