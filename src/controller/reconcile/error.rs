//! Errors of Kubernetes calls: problems for the user, and errors that another try may pass.

use crate::api::names::Reason;
use crate::controller::cluster::pacing::{Call, CallKind, Held};
use crate::policy::Problem;
use crate::text::{first_characters, without_control_characters};

/// The error of a reconcile, which is tried again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("failed to read Secret '{namespace}/{name}'")]
    ReadSecret {
        namespace: String,
        name: String,
        #[source]
        source: kube::Error,
    },
    #[error("failed to read VendorToken '{namespace}/{name}'")]
    ReadVendorToken {
        namespace: String,
        name: String,
        #[source]
        source: kube::Error,
    },
    #[error("failed to write target Secret '{namespace}/{name}'")]
    WriteTarget {
        namespace: String,
        name: String,
        #[source]
        source: kube::Error,
    },
    #[error("failed to write the status of VendorToken '{namespace}/{name}'")]
    WriteStatus {
        namespace: String,
        name: String,
        #[source]
        source: kube::Error,
    },
    /// Without its source: a panic's text may hold anything.
    #[error(
        "failed to finish a reconcile: its task panicked; this is a defect of the operator, please report it"
    )]
    Task,
}

impl Error {
    /// The call that failed.
    pub(crate) fn call(&self) -> Option<Call> {
        let (kind, namespace) = match self {
            Self::ReadSecret { namespace, .. } => (CallKind::ReadSecret, namespace),
            Self::WriteTarget { namespace, .. } => (CallKind::WriteSecret, namespace),
            Self::WriteStatus { namespace, .. } => (CallKind::WriteStatus, namespace),
            Self::ReadVendorToken { namespace, .. } => (CallKind::ReadVendorToken, namespace),
            Self::Task => return None,
        };
        Some(Call {
            kind,
            namespace: namespace.clone(),
        })
    }

    /// The refusal of a call that was not sent because such calls fail.
    pub(crate) fn held(&self) -> Option<&Held> {
        match self {
            Self::ReadSecret { source, .. }
            | Self::ReadVendorToken { source, .. }
            | Self::WriteTarget { source, .. }
            | Self::WriteStatus { source, .. } => Held::of(source),
            Self::Task => None,
        }
    }
}

/// The problem that a refused write of a target is for the user; `None` where another try may pass.
pub(crate) fn write_problem(error: &kube::Error, secret: &str) -> Option<Problem> {
    let kube::Error::Api(status) = error else {
        return None;
    };
    let told = one_line(&status.message);
    match status.code {
        401 | 403 => Some(denied(&told, secret)),
        // The code of a refusal by an admission policy or webhook is its author's choice.
        400..500 if told.contains(" is forbidden: ") || told.contains("admission webhook") => {
            Some(denied(&told, secret))
        }
        500..600 if told.contains("failed calling webhook") => Some(Problem::new(
            Reason::ApiDenied,
            format!(
                "the API server could not ask an admission webhook about Secret '{secret}': {told}; mend that webhook, \
                 or exempt this namespace from it"
            ),
        )),
        404 => Some(Problem::new(
            Reason::ApiDenied,
            format!(
                "the API server found no place for Secret '{secret}': {told}; check that the namespace exists"
            ),
        )),
        400 | 413 | 422 => Some(Problem::new(
            Reason::TargetInvalid,
            format!(
                "the API server refused Secret '{secret}': {told}; change `spec.target`, or delete that Secret so that it \
                 is made anew"
            ),
        )),
        _ => None,
    }
}

fn denied(told: &str, secret: &str) -> Problem {
    Problem::new(
        Reason::ApiDenied,
        format!(
            "the API server denied writing Secret '{secret}': {told}; grant the operator's ServiceAccount create and \
             patch on Secrets here, or mend the quota, the admission policy or the namespace that it names"
        ),
    )
}

/// The error of a write, without repetitions of `written` in its text: an admission policy or webhook may quote the
/// object that it refuses.
pub(crate) fn withholding(error: kube::Error, written: &[&str]) -> kube::Error {
    match error {
        kube::Error::Api(mut status) => {
            status.message = withhold(&status.message, written);
            status.reason = withhold(&status.reason, written);
            // The same words again, field by field.
            status.details = None;
            kube::Error::Api(status)
        }
        error => error,
    }
}

/// The longest text of a refusal that is searched, in characters: an admission webhook may quote a whole Secret, and
/// the comparison of that with itself takes minutes.
const LONGEST_TEXT: usize = 2000;

/// The shortest repetition, in characters: fewer in a row may be a coincidence.
const SHORTEST_REPEAT: usize = 12;

fn withhold(text: &str, secrets: &[&str]) -> String {
    let characters: Vec<char> = text.chars().take(LONGEST_TEXT).collect();
    let mut repeats = vec![false; characters.len()];
    for (start, window) in characters.windows(SHORTEST_REPEAT).enumerate() {
        let window: String = window.iter().collect();
        if secrets.iter().any(|secret| secret.contains(&window)) {
            repeats
                .iter_mut()
                .skip(start)
                .take(SHORTEST_REPEAT)
                .for_each(|repeat| *repeat = true);
        }
    }
    let mut kept = String::with_capacity(text.len());
    let mut before = false;
    for (character, repeat) in characters.into_iter().zip(repeats) {
        match (repeat, before) {
            (true, false) => kept.push_str("[withheld]"),
            (true, true) => {}
            (false, _) => kept.push(character),
        }
        before = repeat;
    }
    kept
}

/// The problem that a refused read of a Secret is for the user; `None` where another try may pass.
pub(crate) fn read_problem(error: &kube::Error, secret: &str) -> Option<Problem> {
    let kube::Error::Api(status) = error else {
        return None;
    };
    (status.code == 403 || status.code == 401).then(|| {
        Problem::new(
            Reason::ApiDenied,
            format!(
                "the API server denied reading Secret '{secret}': {}; grant the operator's ServiceAccount get on it",
                one_line(&status.message)
            ),
        )
    })
}

/// One line of at most 300 characters, without control characters.
fn one_line(text: &str) -> String {
    let text = without_control_characters(text);
    let line = first_characters(&text, 300);
    line.trim().trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use crate::error_text::with_causes;
    use rstest::rstest;

    use super::*;

    fn api_error(code: u16, message: &str) -> kube::Error {
        let status = serde_json::json!({ "status": "Failure", "code": code, "reason": "Invalid", "message": message,
            "details": { "causes": [{ "message": message }] } });
        kube::Error::Api(serde_json::from_value(status).unwrap())
    }

    #[rstest]
    #[case(
        403,
        "secrets \"t\" is forbidden: User \"u\" cannot patch",
        Some(Reason::ApiDenied)
    )]
    #[case(403, "secrets \"t\" is forbidden: exceeded quota", Some(Reason::ApiDenied))]
    #[case(
        422,
        "secrets \"t\" is forbidden: ValidatingAdmissionPolicy 'p' denied request: no",
        Some(Reason::ApiDenied)
    )]
    #[case(
        400,
        "admission webhook \"w\" denied the request: no",
        Some(Reason::ApiDenied)
    )]
    #[case(404, "namespaces \"n\" not found", Some(Reason::ApiDenied))]
    #[case(
        422,
        "Secret \"t\" is invalid: data: Forbidden: field is immutable",
        Some(Reason::TargetInvalid)
    )]
    #[case(413, "request is too large", Some(Reason::TargetInvalid))]
    #[case(
        500,
        "Internal error occurred: failed calling webhook \"w\": no endpoints available",
        Some(Reason::ApiDenied)
    )]
    #[case(500, "etcdserver: request timed out", None)]
    fn a_refused_write_has_a_reason(
        #[case] code: u16,
        #[case] message: &str,
        #[case] expected: Option<Reason>,
    ) {
        let problem = write_problem(&api_error(code, message), "t");
        assert_eq!(problem.map(|problem| problem.reason), expected);
    }

    #[test]
    fn repetitions_of_the_written_token_are_withheld() {
        let (token, encoded) = ("abcdefghijklmnopqrstuvwxyz", "YWJjZGVmZ2hpamtsbW5vcA==");
        let message = format!(
            "denied: '{token}', data {encoded}, cut {}, alphabet abcdefghij",
            &token[..15]
        );
        let error = withholding(api_error(500, &message), &[token, encoded]);
        let told = with_causes(&error);
        assert!(
            told.contains("denied: '[withheld]', data [withheld], cut [withheld], alphabet abcdefghij"),
            "{told}"
        );
        assert!(
            !told.contains(&token[..12]) && !told.contains(&encoded[..12]),
            "{told}"
        );
    }

    #[test]
    fn a_refusal_that_quotes_a_whole_secret_is_cut_before_it_is_searched() {
        let message = format!("denied {}", "0123456789 ".repeat(100_000));
        let kube::Error::Api(status) = withholding(api_error(400, &message), &["no such token"]) else {
            panic!("another kind of error");
        };
        assert_eq!(status.message.len(), LONGEST_TEXT);
    }
}
