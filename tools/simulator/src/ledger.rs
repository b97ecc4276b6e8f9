//! The ledger: calls, counts, connections, and the tokens that were issued.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use crate::digest::fingerprint_number;
use crate::vendor::Vendor;

/// The part of the calls that the ledger keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Detail {
    /// Each call, the newest 200 000 of them, and the counts.
    #[default]
    Calls,
    /// Counts and violations only, for benchmarks.
    Counts,
}

/// Calls that are kept in the ledger.
const CALLS_KEPT: usize = 200_000;
/// Tokens that are remembered for [`crate::Simulator::validate`].
const TOKENS_KEPT: usize = 1_000_000;

/// One request to a vendor's listener. Recorded when the request has been read, so a call that is still
/// being delayed is in the ledger already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Counts from 1 over all vendors, without a gap.
    pub sequence: u64,
    /// When, in Unix milliseconds.
    pub time_ms: u64,
    /// The vendor of the listener.
    pub vendor: Vendor,
    /// The credential's ledger id (never the secret), where one could be read.
    pub credential: Option<String>,
    /// The HTTP method.
    pub method: String,
    /// The path, without the query, cut at 200 characters.
    pub path: String,
    /// The status answered; `None` where a fault answered nothing.
    pub status: Option<u16>,
    /// The breach of the vendor's page, where there is one.
    pub violation: Option<String>,
    /// The fingerprint of the token issued (see [`crate::fingerprint`]).
    pub token: Option<String>,
    /// A scripted fault had a part in the answer.
    pub fault: bool,
    /// The client presented a certificate.
    pub client_certificate: bool,
}

/// Counts of one vendor, or of one credential.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// All calls.
    pub calls: u64,
    /// Tokens issued.
    pub issued: u64,
    /// Requests that the vendor's page does not allow.
    pub violations: u64,
    /// Calls by status; 0 stands for no answer.
    pub by_status: BTreeMap<u16, u64>,
}

impl Counts {
    fn add(&mut self, status: u16, issued: bool, violation: bool) {
        self.calls += 1;
        self.issued += u64::from(issued);
        self.violations += u64::from(violation);
        *self.by_status.entry(status).or_default() += 1;
    }
}

/// Counts of one vendor, with its connections and credentials.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VendorCounts {
    /// All calls of the vendor.
    pub total: Counts,
    /// TCP connections accepted.
    pub connections: u64,
    /// Connections whose TLS handshake failed.
    pub failed_handshakes: u64,
    /// By the credential's ledger id.
    pub credentials: BTreeMap<String, Counts>,
}

/// The answer of [`crate::Simulator::validate`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Validation {
    /// This vendor issued it.
    pub known: bool,
    /// Known, not expired, not revoked.
    pub valid: bool,
    /// The credential's ledger id.
    pub credential: Option<String>,
    /// Unix milliseconds.
    pub issued_ms: u64,
    /// Unix milliseconds.
    pub expires_ms: u64,
}

/// The connections and requests at the second host of a redirect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrapRecord {
    /// TCP connections accepted.
    pub connections: u64,
    /// Requests received.
    pub requests: Vec<TrapRequest>,
}

/// A request that followed a redirect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrapRequest {
    /// Unix milliseconds.
    pub time_ms: u64,
    /// The HTTP method.
    pub method: String,
    /// The path, without the query.
    pub path: String,
    /// Names of the headers; values could be secrets.
    pub headers: Vec<String>,
    /// Length of the body in bytes.
    pub body_length: u64,
}

struct Issued {
    vendor: Vendor,
    credential: Arc<str>,
    issued_ms: u64,
    expires_ms: u64,
    revoked: bool,
}

#[derive(Default)]
struct VendorLedger {
    total: Counts,
    credentials: HashMap<Arc<str>, Counts>,
    connections: u64,
    failed_handshakes: u64,
}

/// One call, as it is recorded.
pub(crate) struct Entry<'a> {
    pub(crate) time_ms: u64,
    pub(crate) vendor: Vendor,
    pub(crate) credential: Option<Arc<str>>,
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    pub(crate) status: Option<u16>,
    pub(crate) violation: Option<String>,
    pub(crate) token: Option<u128>,
    pub(crate) fault: bool,
    pub(crate) client_certificate: bool,
}

#[derive(Default)]
pub(crate) struct Ledger {
    detail: Detail,
    sequence: u64,
    calls: VecDeque<Call>,
    vendors: [VendorLedger; 5],
    tokens: HashMap<u128, Issued>,
    order: VecDeque<u128>,
    trap: TrapRecord,
}

impl Ledger {
    pub(crate) fn new(detail: Detail) -> Self {
        Self {
            detail,
            ..Self::default()
        }
    }

    pub(crate) fn record(&mut self, entry: Entry<'_>) {
        self.sequence += 1;
        let vendor = &mut self.vendors[entry.vendor.index()];
        let (status, issued) = (entry.status.unwrap_or(0), entry.token.is_some());
        let violation = entry.violation.is_some();
        vendor.total.add(status, issued, violation);
        if let Some(credential) = &entry.credential {
            match vendor.credentials.get_mut(credential) {
                Some(counts) => counts.add(status, issued, violation),
                None => vendor
                    .credentials
                    .entry(Arc::clone(credential))
                    .or_default()
                    .add(status, issued, violation),
            }
        }
        if self.detail == Detail::Counts && !violation {
            return;
        }
        if self.calls.len() == CALLS_KEPT {
            self.calls.pop_front();
        }
        self.calls.push_back(Call {
            sequence: self.sequence,
            time_ms: entry.time_ms,
            vendor: entry.vendor,
            credential: entry.credential.map(|id| id.to_string()),
            method: entry.method.to_owned(),
            path: entry.path.chars().take(200).collect(),
            status: entry.status,
            violation: entry.violation,
            token: entry.token.map(|number| format!("{number:032x}")),
            fault: entry.fault,
            client_certificate: entry.client_certificate,
        });
    }

    pub(crate) fn issued(
        &mut self,
        vendor: Vendor,
        credential: Arc<str>,
        token: u128,
        issued_ms: u64,
        expires_ms: u64,
    ) {
        if self.order.len() == TOKENS_KEPT
            && let Some(oldest) = self.order.pop_front()
        {
            self.tokens.remove(&oldest);
        }
        let issued = Issued {
            vendor,
            credential,
            issued_ms,
            expires_ms,
            revoked: false,
        };
        if self.tokens.insert(token, issued).is_none() {
            self.order.push_back(token);
        }
    }

    pub(crate) fn revoke(&mut self, vendor: Vendor, credential: &str) {
        for issued in self.tokens.values_mut() {
            if issued.vendor == vendor && &*issued.credential == credential {
                issued.revoked = true;
            }
        }
    }

    pub(crate) fn validate(&self, vendor: Vendor, token: &str, now_ms: u64) -> Validation {
        match self.tokens.get(&fingerprint_number(token.as_bytes())) {
            Some(issued) if issued.vendor == vendor => Validation {
                known: true,
                valid: !issued.revoked && now_ms < issued.expires_ms,
                credential: Some(issued.credential.to_string()),
                issued_ms: issued.issued_ms,
                expires_ms: issued.expires_ms,
            },
            _ => Validation::default(),
        }
    }

    pub(crate) fn connected(&mut self, vendor: Vendor) {
        self.vendors[vendor.index()].connections += 1;
    }

    pub(crate) fn handshake_failed(&mut self, vendor: Vendor) {
        self.vendors[vendor.index()].failed_handshakes += 1;
    }

    pub(crate) fn trap_connected(&mut self) {
        self.trap.connections += 1;
    }

    pub(crate) fn trap_requested(&mut self, request: TrapRequest) {
        self.trap.requests.push(request);
    }

    pub(crate) fn trap(&self) -> TrapRecord {
        self.trap.clone()
    }

    pub(crate) fn sequence(&self) -> u64 {
        self.sequence
    }

    pub(crate) fn total(&self, vendor: Vendor) -> Counts {
        self.vendors[vendor.index()].total.clone()
    }

    pub(crate) fn counts(&self, vendor: Vendor) -> VendorCounts {
        let ledger = &self.vendors[vendor.index()];
        VendorCounts {
            total: ledger.total.clone(),
            connections: ledger.connections,
            failed_handshakes: ledger.failed_handshakes,
            credentials: ledger
                .credentials
                .iter()
                .map(|(id, counts)| (id.to_string(), counts.clone()))
                .collect(),
        }
    }

    pub(crate) fn credential_counts(&self, vendor: Vendor, credential: &str) -> Counts {
        self.vendors[vendor.index()]
            .credentials
            .get(credential)
            .cloned()
            .unwrap_or_default()
    }

    pub(crate) fn calls_since(&self, sequence: u64) -> Vec<Call> {
        let first = self.calls.partition_point(|call| call.sequence <= sequence);
        self.calls.iter().skip(first).cloned().collect()
    }

    pub(crate) fn violations(&self) -> Vec<Call> {
        self.calls
            .iter()
            .filter(|call| call.violation.is_some())
            .cloned()
            .collect()
    }

    /// Forgets calls, counts and the trap's record. Issued tokens stay known and the sequence goes on.
    pub(crate) fn clear(&mut self) {
        self.calls.clear();
        self.vendors = Default::default();
        self.trap = TrapRecord::default();
    }
}
