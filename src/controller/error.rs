//! Errors of Kubernetes calls: what is worth telling users, and what is only worth another try.

use crate::api::names::Reason;
use crate::policy::Problem;

/// A reconcile could not go on, and is tried again.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("failed to read Secret '{namespace}/{name}'")]
    ReadSecret {
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

/// What a refused write to a target means for the user; `None` when it is only worth another try.
pub(super) fn write_problem(error: &kube::Error, secret: &str) -> Option<Problem> {
    let kube::Error::Api(status) = error else {
        return None;
    };
    let told = one_line(&status.message);
    match status.code {
        401 | 403 => Some(Problem::new(
            Reason::ApiDenied,
            format!(
                "the API server denied writing Secret '{secret}': {told}; grant the operator's ServiceAccount create and \
                 patch on Secrets here, or mend the quota, the admission policy or the namespace that it names"
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

/// What a refused read of a Secret means for the user.
pub(super) fn read_problem(error: &kube::Error, secret: &str) -> Option<Problem> {
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
    let line: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(300)
        .collect();
    line.trim().trim_end_matches('.').to_owned()
}
