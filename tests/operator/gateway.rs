//! Five vendors behind one gateway share its address, and nothing else.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::{StreamExt, stream};
use vendor_simulator::{Budget, Options, Vendor};
use vendor_token_operator::failure::Failure;
use vendor_token_operator::http::Transport;
use vendor_token_operator::providers::{self, Endpoint, TokenRequest, TokenResponse};

use crate::world::{Operator, World, vendors};

const GATEWAY: &str = "https://gateway.example";
/// More in all than what may be in flight in all.
const COUNT: usize = 32;

/// Sends each request on to the vendor whose path it has.
struct Gateway {
    transport: Arc<dyn Transport>,
    origins: BTreeMap<&'static str, String>,
}

impl Transport for Gateway {
    fn send(&self, request: TokenRequest) -> BoxFuture<'static, Result<TokenResponse, Failure>> {
        let path = request.url.strip_prefix(GATEWAY).unwrap();
        let url = format!("{}{path}", self.origins[path]);
        self.transport.send(TokenRequest { url, ..request })
    }
}

impl World {
    async fn operator_behind_gateway(&self) -> Operator {
        let origins = Vendor::ALL.map(|vendor| (vendor.path(), self.simulator.origin(vendor).to_owned()));
        let endpoint = |vendor| (vendor, Endpoint::parse(vendor, GATEWAY).unwrap());
        self.operator_through(
            |settings| settings.endpoints = providers::Vendor::ALL.map(endpoint).into(),
            |transport| {
                Arc::new(Gateway {
                    transport,
                    origins: origins.into(),
                })
            },
        )
        .await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn vendors_behind_one_gateway_are_served_while_one_of_them_throttles() {
    let one_a_minute = Budget {
        requests: 1,
        ..Budget::MAPIQ
    };
    let options = Options::default().budget(Vendor::Mapiq, one_a_minute);
    let world = &World::with("gateway", options).await;
    let operator = world.operator_behind_gateway().await;
    for name in ["throttled-a", "throttled-b"] {
        world.create(Vendor::Mapiq, name).await;
    }
    world
        .until("a 429", async || {
            let throttled = operator.metric("vendortoken_vendor_throttled_until_timestamp_seconds");
            if throttled > 0.0 { Ok(()) } else { Err("none") }.map_err(str::to_owned)
        })
        .await;
    let others = Vendor::ALL.into_iter().filter(|vendor| *vendor != Vendor::Mapiq);
    let all = others.flat_map(|vendor| {
        (0..COUNT).map(move |number| (vendor, format!("{}-{number}", vendors::object(vendor))))
    });
    stream::iter(all)
        .for_each_concurrent(8, |(vendor, name)| async move {
            world.create(vendor, &name).await;
        })
        .await;
    // One of the two at Mapiq has its token, and the other waits.
    world.until_published(4 * COUNT + 1, crate::world::PATIENCE).await;
    assert_eq!(world.calls(Vendor::Mapiq), 2);
}
