//! Errors with their causes as one line of text.
//!
//! May use: nothing of ours.

/// The text of an error with its causes, in one line.
pub fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        // kube's own text repeats the API server's answer as debug output.
        if let Some(kube::Error::Api(status)) = error.downcast_ref::<kube::Error>() {
            push(
                &mut text,
                &format!("the API server answered {}: {}", status.code, status.message),
            );
            return text;
        }
        push(&mut text, &error.to_string());
        next = error.source();
    }
    text
}

/// Adds a cause, unless the text contains it.
fn push(text: &mut String, cause: &str) {
    if text.is_empty() {
        text.push_str(cause);
    } else if !text.contains(cause) {
        text.push_str(": ");
        text.push_str(cause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("failed to read Secret 'a/b'")]
    struct Failed(#[source] kube::Error);

    #[test]
    fn the_api_servers_answer_is_in_the_text_once() {
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
