//! The live table.

use jiff::Timestamp;
use vendor_simulator::Vendor;
use vendor_token_operator::api::VendorToken;
use vendor_token_operator::api::names::condition;

use crate::screen::wrap;

/// Ready, reason, other conditions, time of issue.
pub(crate) type Key = (String, String, Vec<String>, Option<Timestamp>);

/// One VendorToken in the table.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) vendor: Vendor,
    pub(crate) target: String,
    /// The condition `Ready`: `True`, `False`, or nothing yet.
    pub(crate) ready: String,
    pub(crate) reason: String,
    /// The other conditions that are True.
    pub(crate) also: Vec<String>,
    pub(crate) message: String,
    pub(crate) issued: Option<Timestamp>,
    pub(crate) expires: Option<Timestamp>,
    pub(crate) next_refresh: Option<Timestamp>,
    pub(crate) next_attempt: Option<Timestamp>,
    /// Tokens published after the first one.
    pub(crate) renewed: u32,
    /// Requests that the vendor has seen.
    pub(crate) calls: u64,
}

impl Row {
    pub(crate) fn new(name: &str, vendor: Vendor, target: &str) -> Self {
        Self {
            name: name.to_owned(),
            vendor,
            target: target.to_owned(),
            ready: String::new(),
            reason: String::new(),
            also: Vec::new(),
            message: String::new(),
            issued: None,
            expires: None,
            next_refresh: None,
            next_attempt: None,
            renewed: 0,
            calls: 0,
        }
    }

    /// Takes over the object's present status.
    pub(crate) fn see(&mut self, token: &VendorToken) {
        let Some(status) = &token.status else { return };
        self.also.clear();
        for found in &status.conditions {
            if found.type_ == condition::READY {
                self.ready.clone_from(&found.status);
                self.reason.clone_from(&found.reason);
                self.message.clone_from(&found.message);
            } else if found.status == "True" {
                self.also.push(found.type_.clone());
            }
        }
        let issued = status.issued_time.as_ref().map(|time| time.0);
        if self.issued.is_some() && issued > self.issued {
            self.renewed += 1;
        }
        self.issued = issued.or(self.issued);
        self.expires = status.expiration_time.as_ref().map(|time| time.0);
        self.next_refresh = status.next_refresh_time.as_ref().map(|time| time.0);
        let failure = status.failure.as_ref();
        self.next_attempt = failure
            .and_then(|failure| failure.next_attempt_time.as_ref())
            .map(|time| time.0);
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.ready == "True"
    }

    /// Ready, and nothing to say beside that.
    pub(crate) fn is_well(&self) -> bool {
        self.is_ready() && self.reason == "Published"
    }

    /// The part of the state whose change is worth a line.
    pub(crate) fn key(&self) -> Key {
        let Self {
            ready,
            reason,
            also,
            issued,
            ..
        } = self;
        (ready.clone(), reason.clone(), also.clone(), *issued)
    }

    /// Its state in one line, without the message.
    pub(crate) fn line(&self, now: Timestamp) -> String {
        let mut line = format!("{:<14} Ready={:<6} {:<20}", self.name, self.ready, self.reason);
        if self.is_well() {
            if let Some(expires) = self.expires {
                line.push_str(&format!("valid for {}, ", span(now, expires)));
            }
            line.push_str(&self.next(now));
        } else {
            let also = self.also.iter().map(|condition| format!("{condition}=True"));
            let next = (self.next_attempt.is_some()).then(|| self.next(now));
            line.push_str(&also.chain(next).collect::<Vec<_>>().join(", "));
        }
        line
    }

    fn next(&self, now: Timestamp) -> String {
        match (self.next_attempt, self.next_refresh) {
            (Some(time), _) => format!("request in {}", span(now, time)),
            (None, _) if self.reason == "CredentialsRejected" => "on a change".to_owned(),
            (None, Some(time)) => format!("refresh in {}", span(now, time)),
            (None, None) => "-".to_owned(),
        }
    }
}

/// The table's lines; the messages of VendorTokens that are not well are below it.
pub(crate) fn render(rows: &[Row], now: Timestamp, width: usize) -> Vec<String> {
    let mut lines = vec![
        String::new(),
        format!(
            "  {:<14} {:<6} {:<20} {:>10}  {:<18} {:>7} {:>13}",
            "NAME", "READY", "REASON", "EXPIRES IN", "NEXT", "RENEWED", "VENDOR CALLS"
        ),
    ];
    for row in rows {
        let text = |text: &str| {
            if text.is_empty() {
                "-".to_owned()
            } else {
                text.to_owned()
            }
        };
        let expires = row.expires.map_or_else(|| "-".to_owned(), |time| span(now, time));
        lines.push(format!(
            "  {:<14} {:<6} {:<20} {:>10}  {:<18} {:>7} {:>13}",
            row.name,
            text(&row.ready),
            text(&row.reason),
            expires,
            row.next(now),
            row.renewed,
            row.calls
        ));
    }
    lines.push(String::new());
    for row in rows.iter().filter(|row| !row.ready.is_empty() && !row.is_well()) {
        let message = format!("{}: {}", row.name, row.message);
        lines.extend(
            wrap(&message, width.saturating_sub(4).max(40))
                .into_iter()
                .map(|line| format!("  {line}")),
        );
    }
    lines
}

/// From now until then, in at most two units.
pub(crate) fn span(now: Timestamp, then: Timestamp) -> String {
    let milliseconds = then.duration_since(now).as_millis();
    let seconds = u64::try_from(milliseconds.max(0))
        .unwrap_or_default()
        .div_ceil(1000);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h {:02}m", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn spans_have_at_most_two_units_and_are_never_negative() {
        let now = at("2026-01-01T00:00:00Z");
        assert_eq!(span(now, at("2026-01-01T00:00:07.2Z")), "8s");
        assert_eq!(span(now, at("2026-01-01T00:02:05Z")), "2m 05s");
        assert_eq!(span(now, at("2026-01-01T23:59:30Z")), "23h 59m");
        assert_eq!(span(now, at("2025-12-31T23:00:00Z")), "0s");
    }

    #[test]
    fn only_a_later_token_counts_as_renewed() {
        let token = |issued: &str| -> VendorToken {
            serde_json::from_value(serde_json::json!({
                "apiVersion": "vendortoken.io/v1alpha1", "kind": "VendorToken", "metadata": { "name": "a" },
                "spec": { "vendor": "Mapiq", "credentialsSecretRef": { "name": "a-credentials" } },
                "status": { "issuedTime": issued },
            }))
            .unwrap()
        };
        let mut row = Row::new("a", Vendor::Mapiq, "a");
        row.see(&token("2026-01-01T00:00:00Z"));
        row.see(&token("2026-01-01T00:00:00Z"));
        assert_eq!(row.renewed, 0);
        row.see(&token("2026-01-01T00:00:01Z"));
        assert_eq!(row.renewed, 1);
    }
}
