//! Structured logs on standard error, with times in UTC (RFC 3339).
//!
//! Container runtimes and klog-based programs use standard error for logs; standard output is for results
//! (`vendor-token-operator crd`). May use: nothing of ours.

use std::fmt;
use std::io::IsTerminal;
use std::panic::PanicHookInfo;
use std::str::FromStr;

use tracing::level_filters::LevelFilter;
use tracing::{Metadata, Subscriber};
use tracing_subscriber::filter::{EnvFilter, FilterExt, filter_fn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry};

/// Format of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line.
    #[default]
    Json,
    /// For people.
    Text,
}

/// Filter of log lines: a level for the operator (libraries log warnings only), or `tracing` directives such as
/// `info,vendor_token_operator::policy=debug,kube_runtime=debug`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFilter(String);

/// Error for a text that is neither a level nor a list of directives.
#[derive(Debug, thiserror::Error)]
#[error(
    "not a level (error, warn, info, debug, trace, off) nor a list of directives such as info,kube_runtime=debug"
)]
pub struct InvalidLogFilter(#[source] Option<tracing_subscriber::filter::ParseError>);

impl FromStr for LogFilter {
    type Err = InvalidLogFilter;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        if text.is_empty() {
            return Err(InvalidLogFilter(None));
        }
        let directives = match text.parse::<LevelFilter>() {
            Ok(level) => {
                let libraries = level.min(LevelFilter::WARN);
                format!("{libraries},vendor_token_operator={level},kubectl_vendortoken={level}")
            }
            // `EnvFilter` reads another word as the name of a crate, and silences all others.
            Err(_) if !text.contains(['=', ',']) => return Err(InvalidLogFilter(None)),
            Err(_) => text.to_owned(),
        };
        EnvFilter::try_new(&directives).map_err(|error| InvalidLogFilter(Some(error)))?;
        Ok(Self(directives))
    }
}

impl fmt::Display for LogFilter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Error in setting up logs.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The directives are invalid.
    #[error("failed to read the log filter")]
    Filter(#[source] tracing_subscriber::filter::ParseError),
    /// Logs are set up already.
    #[error("failed to set up logs: they are set up already")]
    Twice(#[source] tracing_subscriber::util::TryInitError),
}

/// Sets up logs on standard error, with those of the `log` crate and of panics. Call it once.
pub fn init(format: LogFormat, filter: &LogFilter) -> Result<(), TelemetryError> {
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    subscriber(format, filter, std::io::stderr, colours)
        .map_err(TelemetryError::Filter)?
        .try_init()
        .map_err(TelemetryError::Twice)?;
    std::panic::set_hook(Box::new(report_panic));
    Ok(())
}

fn subscriber<W>(
    format: LogFormat,
    filter: &LogFilter,
    writer: W,
    colours: bool,
) -> Result<impl Subscriber + Send + Sync + use<W>, tracing_subscriber::filter::ParseError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = EnvFilter::try_new(&filter.0)?.and(filter_fn(quotes_no_secret));
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    let lines: Box<dyn Layer<Registry> + Send + Sync> = match format {
        LogFormat::Json => Box::new(
            lines
                .json()
                .flatten_event(true)
                .with_span_list(false)
                .with_filter(filter),
        ),
        LogFormat::Text => Box::new(lines.with_ansi(colours).with_filter(filter)),
    };
    Ok(Registry::default().with(lines))
}

/// False for two modules of kube that log unreadable input: response bodies (a Secret's data) and lines of a
/// kubeconfig. The errors that they return name the fault. No filter of a user enables them.
fn quotes_no_secret(metadata: &Metadata<'_>) -> bool {
    !matches!(metadata.target(), "kube_client::client" | "kube_client::config")
}

/// Logs a panic. Only a constant message is shown: a formatted one may quote a secret, as that of slicing a string
/// does.
fn report_panic(panic: &PanicHookInfo<'_>) {
    let message = panic
        .payload()
        .downcast_ref::<&'static str>()
        .copied()
        .unwrap_or("(message withheld)");
    let location = panic.location().map(ToString::to_string).unwrap_or_default();
    tracing::error!(location, "panicked: {message}");
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use jiff::Timestamp;

    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, filter: &str, log: impl FnOnce()) -> String {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let subscriber = subscriber(format, &filter.parse().unwrap(), move || writer.clone(), false).unwrap();
        tracing::subscriber::with_default(subscriber, log);
        let bytes = buffer.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_json_line_has_a_utc_time_the_level_and_the_fields() {
        let text = logged(LogFormat::Json, "info", || {
            tracing::info!(target: "vendor_token_operator::http", name = "sca", "published");
        });
        let line: serde_json::Value = serde_json::from_str(text.trim_end()).unwrap();
        assert_eq!(
            (&line["level"], &line["message"], &line["name"]),
            (&"INFO".into(), &"published".into(), &"sca".into())
        );
        let time = line["timestamp"].as_str().unwrap();
        assert!(time.ends_with('Z'), "{time}");
        let age = Timestamp::now().duration_since(time.parse().unwrap());
        assert!(age.as_secs() < 60, "{time}");
    }

    #[test]
    fn a_text_line_is_readable_and_without_colours() {
        let text = logged(LogFormat::Text, "info", || {
            tracing::info!(target: "vendor_token_operator", name = "sca", "published");
        });
        assert!(
            text.contains("INFO vendor_token_operator: published name=\"sca\""),
            "{text}"
        );
        assert!(!text.contains('\u{1b}'), "{text}");
    }

    #[test]
    fn a_level_applies_to_the_operator_and_libraries_only_warn() {
        let log = || {
            tracing::debug!(target: "vendor_token_operator::policy", "ours");
            tracing::info!(target: "kube_runtime::watcher", "chatty");
            tracing::warn!(target: "kube_runtime::watcher", "serious");
        };
        let text = logged(LogFormat::Json, "debug", log);
        assert!(
            text.contains("ours") && text.contains("serious") && !text.contains("chatty"),
            "{text}"
        );
        let text = logged(LogFormat::Json, "error", log);
        assert_eq!(text, "");
        let text = logged(LogFormat::Json, "off,kube_runtime=info", log);
        assert!(text.contains("chatty") && !text.contains("ours"), "{text}");
    }

    #[test]
    fn no_filter_shows_the_response_bodies_that_kube_logs() {
        for filter in [
            "trace",
            "trace,kube_client=trace",
            "info,kube_client::client=trace",
        ] {
            let text = logged(LogFormat::Json, filter, || {
                tracing::warn!(target: "kube_client::client", "{{\"data\":\"marked\"}}");
                tracing::warn!(target: "kube_client::client::builder", "failed with status 500");
            });
            assert!(!text.contains("marked"), "{filter}: {text}");
            assert!(text.contains("failed with status"), "{filter}: {text}");
        }
    }

    #[test]
    fn another_text_than_a_level_or_directives_is_refused() {
        for text in ["", " ", "verbose", "info,kube=loud", "[", "a=b=c"] {
            assert!(text.parse::<LogFilter>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn levels_and_directives_are_read() {
        for text in ["INFO", "warn", "info,kube_runtime=debug", "off,kube_client=trace"] {
            assert!(text.parse::<LogFilter>().is_ok(), "{text:?}");
        }
    }

    #[test]
    fn a_panic_shows_its_place_and_no_formatted_text() {
        let text = logged(LogFormat::Json, "info", || {
            let hook = std::panic::take_hook();
            std::panic::set_hook(Box::new(report_panic));
            let secret = "é-marked".to_owned();
            let caught = std::panic::catch_unwind(|| secret[1..].len());
            std::panic::set_hook(hook);
            assert!(caught.is_err());
        });
        assert!(
            text.contains("message withheld") && text.contains("telemetry.rs"),
            "{text}"
        );
        assert!(!text.contains("marked"), "{text}");
    }
}
