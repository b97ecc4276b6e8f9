//! A vendor that enforces its limit.

use std::collections::VecDeque;

use super::super::offline::Limit;
use super::super::*;

/// The limit of Mapiq.
pub(super) const MAPIQ: Limit = Limit {
    requests: 20,
    window: 60,
};

/// A vendor that answers 429 to more requests than [`MAPIQ`] allows.
pub(super) struct LimitedVendor {
    pub(super) clock: Arc<TokioClock>,
    pub(super) timeline: Arc<Timeline>,
    pub(super) lives: Vec<i64>,
    /// The longest time for an answer, in milliseconds.
    pub(super) latency: u64,
    pub(super) state: Mutex<LimitedState>,
}

#[derive(Default)]
pub(super) struct LimitedState {
    counted: VecDeque<Instant>,
    pub(super) calls: usize,
    pub(super) refused: usize,
    /// The vendor gives no token before this time, and says so.
    pub(super) away_until: Option<Instant>,
    random: u64,
}

impl LimitedState {
    /// A number below `bound`, the same in every run.
    fn random(&mut self, bound: u64) -> u64 {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        if bound == 0 {
            0
        } else {
            (self.random >> 33) % bound
        }
    }
}

impl Transport for Arc<LimitedVendor> {
    fn send(&self, request: TokenRequest) -> BoxFuture<'static, Result<TokenResponse, Failure>> {
        let vendor = Arc::clone(self);
        async move {
            let (sent, began) = (vendor.clock.now(), vendor.timeline.now().moment);
            let number = usize::from(grant_number(&request));
            let delay = |vendor: &LimitedVendor| {
                Duration::from_millis(vendor.state.lock().unwrap().random(vendor.latency / 2 + 1))
            };
            tokio::time::sleep(delay(&vendor)).await;
            let (allowed, index) = {
                let mut state = vendor.state.lock().unwrap();
                let now = Instant::now();
                if let Some(until) = state.away_until.filter(|until| now < *until) {
                    let mut headers = http::HeaderMap::new();
                    headers.insert("retry-after", (until - now).as_secs().into());
                    return Ok(TokenResponse {
                        status: 429,
                        headers,
                        body: Vec::new().into(),
                        sent,
                        received: vendor.clock.now(),
                        clock_step: SignedDuration::ZERO,
                    });
                }
                let window = Duration::from_secs(MAPIQ.window.unsigned_abs());
                while state.counted.front().is_some_and(|first| now - *first >= window) {
                    state.counted.pop_front();
                }
                state.calls += 1;
                let allowed = state.counted.len() < MAPIQ.requests;
                if allowed {
                    state.counted.push_back(now);
                } else {
                    state.refused += 1;
                }
                (allowed, state.calls)
            };
            tokio::time::sleep(delay(&vendor)).await;
            let mut headers = http::HeaderMap::new();
            headers.insert("content-type", "application/json".parse().unwrap());
            let (status, body) = match vendor.lives.get(number) {
                _ if !allowed => (429, String::new()),
                Some(life) => (200, token_body(&format!("t{index}"), sent, *life)),
                None => (401, r#"{"error":"invalid_client"}"#.to_owned()),
            };
            Ok(TokenResponse {
                status,
                headers,
                body: body.into_bytes().into(),
                sent,
                received: vendor.clock.now(),
                clock_step: vendor.timeline.stepped_since(began),
            })
        }
        .boxed()
    }
}
