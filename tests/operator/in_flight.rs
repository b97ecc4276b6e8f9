//! What comes back for a grant that nobody wants any more is published nowhere.

use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use serde_json::json;
use tokio::sync::Semaphore;
use vendor_simulator::{Effect, Fault, Vendor};
use vendor_token_operator::failure::Failure;
use vendor_token_operator::http::Transport;
use vendor_token_operator::providers::{TokenRequest, TokenResponse};

use crate::world::vendors;
use crate::world::{Operator, Running as _, World};

const VENDOR: Vendor = Vendor::CheckmarxSca;

/// Sends at once, and hands an answer over for each permit: the vendor has judged, and its answer is on its way.
struct LateAnswers {
    transport: Arc<dyn Transport>,
    permits: Arc<Semaphore>,
}

impl Transport for LateAnswers {
    fn send(&self, request: TokenRequest) -> BoxFuture<'static, Result<TokenResponse, Failure>> {
        let permits = Arc::clone(&self.permits);
        let answer = self.transport.send(request);
        async move {
            let answer = answer.await;
            permits.acquire().await.unwrap().forget();
            answer
        }
        .boxed()
    }
}

impl World {
    async fn operator_with_late_answers(&self) -> (Operator, Arc<Semaphore>) {
        let permits = Arc::new(Semaphore::new(0));
        let given = Arc::clone(&permits);
        let wrap = |transport| {
            Arc::new(LateAnswers {
                transport,
                permits: given,
            }) as Arc<dyn Transport>
        };
        (self.operator_through(|_| {}, wrap).await, permits)
    }

    async fn until_issued(&self, tokens: u64) {
        self.until(&format!("{tokens} tokens issued"), async || {
            match self.simulator.total(VENDOR).issued {
                issued if issued >= tokens => Ok(()),
                issued => Err(issued.to_string()),
            }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_a_grant_that_was_changed_meanwhile_is_published_nowhere() {
    for change in ["tenant", "password", "user"] {
        let world = World::new(&format!("in-flight-{change}")).await;
        let credential = |id: &str, secret: &str, tenant: &str| {
            vendor_simulator::Credential::new(id, secret).tenant(tenant)
        };
        world
            .simulator
            .put_credential(VENDOR, credential("first", "one", "acme"));
        let (operator, permits) = world.operator_with_late_answers().await;
        world.store(VENDOR, "first", "one").await;
        world.apply("sca", vendors::spec(VENDOR, "first")).await;
        world.until_issued(1).await;

        let mark = world.mark().await;
        let (user, password, tenant) = match change {
            "tenant" => ("first", "one", "other"),
            "password" => ("first", "two", "acme"),
            _ => ("second", "one", "acme"),
        };
        world
            .simulator
            .put_credential(VENDOR, credential(user, password, tenant));
        match change {
            "tenant" => {
                let tenant = json!({ "spec": { "checkmarxSCA": { "tenant": tenant } } });
                world.edit("sca", tenant).await;
            }
            _ => {
                let data = [("username", user), ("password", password)];
                world.credentials("first-credentials", &data).await;
            }
        }
        world.until_issued(2).await;
        // Both answers come, the one that nobody wants first.
        permits.add_permits(1);
        operator.quiet().await;
        assert_eq!(
            world.data("sca", "token").await,
            None,
            "{change}: of the former grant"
        );
        permits.add_permits(1);
        world.ready("sca", "True Published").await;
        let token = world.data("sca", "token").await.unwrap();
        let of = world.simulator.validate(VENDOR, &token).credential;
        assert_eq!(of, Some(format!("{tenant}/{user}")), "{change}");
        let written = world
            .acts_since(mark)
            .await
            .count(|entry| entry.resource == "secrets" && entry.is_write());
        assert_eq!(written, 1, "{change}");
        assert_eq!(world.calls(VENDOR), 2, "{change}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_token_again_is_written_nowhere() {
    let world = &World::new("same-token").await;
    let operator = &world.operator().await;
    let vendor = Vendor::Mapiq;
    let token = world.published(vendor, "mapiq").await;
    world.simulator.add_fault(Fault::new(vendor, Effect::SameToken));
    let version = async || world.secret("mapiq").await.metadata.resource_version;
    let before = version().await;
    // It is due, and the vendor's cache gives what it gave: as the machine is slow or quick, some seconds after.
    for (step, calls) in [(2900, 2), (29, 2), (29, 2), (400, 3)] {
        world.clock.pass(step);
        world.settle("mapiq", operator).await;
        world.settle("mapiq", operator).await;
        assert_eq!(world.calls(vendor), calls, "after {step} s");
        world.ready("mapiq", "True Published").await;
    }
    assert_eq!(version().await, before);
    assert_eq!(world.data("mapiq", "token").await, Some(token));

    // Nor when a person asks: the request is echoed in the status alone.
    world.request_refresh("mapiq", "now").await;
    world.clock.pass(40);
    world.settle("mapiq", operator).await;
    world
        .until("the echo", async || {
            let status = world.token("mapiq").await.status.unwrap();
            match status.last_handled_refresh_request.as_deref() {
                Some("now") => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    assert_eq!((world.calls(vendor), version().await), (4, before));
}
