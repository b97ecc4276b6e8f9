//! Errors as one line of text.
//!
//! May use: nothing of ours.

/// An error with its causes, in one line.
pub fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = text_of(error);
    let mut cause = error.source();
    while let Some(next) = cause {
        let next_text = text_of(next);
        // kube repeats the cause in some of its own texts.
        if !text.contains(&next_text) {
            text.push_str(": ");
            text.push_str(&next_text);
        }
        cause = next.source();
    }
    text
}

/// The text of one error. kube's own repeats the API server's answer in full, as a debug text.
fn text_of(error: &(dyn std::error::Error + 'static)) -> String {
    if let Some(kube::Error::Api(status)) = error.downcast_ref::<kube::Error>() {
        return format!("the API server answered {}: {}", status.code, status.message);
    }
    if let Some(status) = error.downcast_ref::<kube::core::Status>() {
        return status.message.clone();
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("failed to read Secret 'a/b'")]
    struct Failed(#[source] kube::Error);

    #[test]
    fn what_the_api_server_answered_is_told_once() {
        let status: kube::core::Status = serde_json::from_value(
            serde_json::json!({ "status": "Failure", "code": 403, "message": "no", "reason": "Forbidden" }),
        )
        .unwrap();
        let error = Failed(kube::Error::Api(Box::new(status)));
        assert_eq!(
            with_causes(&error),
            "failed to read Secret 'a/b': the API server answered 403: no"
        );
    }
}
