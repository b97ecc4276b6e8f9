//! The text of `/metrics`, rendered once for all who read it at the same time.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

use crate::metrics::Metrics;

/// Readers within this time get the same text.
const FRESH: Duration = Duration::from_secs(1);

/// The text of `/metrics`. At most two texts are in memory at any time, however many readers there are and however
/// slowly they read: no third is rendered while the one before the last is still being written.
#[derive(Clone)]
pub(super) struct MetricsPage(Arc<Inner>);

struct Inner {
    metrics: Metrics,
    texts: Mutex<Texts>,
}

/// The texts that are still in somebody's hands.
struct Texts {
    last: Weak<String>,
    rendered: Instant,
    before_last: Weak<String>,
}

/// The owner of a text, for [`Bytes`].
struct Shared(Arc<String>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl MetricsPage {
    pub(super) fn new(metrics: Metrics) -> Self {
        let texts = Mutex::new(Texts {
            last: Weak::new(),
            rendered: Instant::now(),
            before_last: Weak::new(),
        });
        Self(Arc::new(Inner { metrics, texts }))
    }

    /// The metrics as of now, or as of a moment ago.
    pub(super) async fn text(&self) -> Result<Bytes, fmt::Error> {
        let mut texts = self.0.texts.lock().await;
        let may_render = texts.rendered.elapsed() >= FRESH && texts.before_last.strong_count() == 0;
        if let Some(last) = texts.last.upgrade()
            && !may_render
        {
            return Ok(Bytes::from_owner(Shared(last)));
        }
        let mut text = self.0.metrics.encode()?;
        text.shrink_to_fit();
        let text = Arc::new(text);
        texts.before_last = std::mem::replace(&mut texts.last, Arc::downgrade(&text));
        texts.rendered = Instant::now();
        let kept = Arc::clone(&text);
        tokio::spawn(async move {
            sleep(FRESH).await;
            drop(kept);
        });
        Ok(Bytes::from_owner(Shared(text)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn page_after(page: &MetricsPage, milliseconds: u64) -> Bytes {
        tokio::time::sleep(Duration::from_millis(milliseconds)).await;
        page.text().await.unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn readers_within_a_second_share_one_text() {
        let page = MetricsPage::new(Metrics::new());
        let first = page_after(&page, 0).await.as_ptr();
        assert_eq!(page_after(&page, 999).await.as_ptr(), first);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_after_a_second_gets_the_present_values() {
        let metrics = Metrics::new();
        let page = MetricsPage::new(metrics.clone());
        let _slow_reader = page_after(&page, 0).await;
        metrics.leader(true);
        let text = page_after(&page, 1000).await;
        assert!(String::from_utf8_lossy(&text).contains("\nvendortoken_leader 1\n"));
    }

    #[tokio::test(start_paused = true)]
    async fn slow_readers_hold_two_texts_at_most() {
        let page = MetricsPage::new(Metrics::new());
        let first = page_after(&page, 0).await;
        let second = page_after(&page, 1000).await;
        assert_ne!(first.as_ptr(), second.as_ptr());
        for _ in 0..64 {
            assert_eq!(page_after(&page, 1000).await.as_ptr(), second.as_ptr());
        }
        drop(first);
        assert_ne!(page_after(&page, 0).await.as_ptr(), second.as_ptr());
    }

    #[tokio::test(start_paused = true)]
    async fn a_text_that_nobody_reads_any_more_is_not_kept() {
        let page = MetricsPage::new(Metrics::new());
        drop(page_after(&page, 0).await);
        tokio::time::sleep(Duration::from_millis(1001)).await;
        assert_eq!(page.0.texts.lock().await.last.strong_count(), 0);
    }
}
