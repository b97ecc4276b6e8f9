//! What an edit of a VendorToken costs, refresh requests and suspension.

use serde_json::json;
use vendor_simulator::{Effect, Fault, Vendor};
use vendor_token_operator::api::names;

use crate::world::vendors::{self, for_every_vendor};
use crate::world::{Running as _, World, counts};

const VENDOR: Vendor = Vendor::CheckmarxSca;

#[tokio::test(flavor = "multi_thread")]
async fn edits_that_do_not_reach_the_grant_cost_no_vendor_call() {
    let world = World::new("edited").await;
    let operator = world.operator().await;
    world.register(VENDOR, "sca").await;
    let mut spec = vendors::spec(VENDOR, "sca");
    spec["target"] = json!({ "data": { "first": "$(token)", "second": "$(token)" } });
    world.apply("sca", spec.clone()).await;
    world.ready("sca", "True Published").await;
    let value = world.data("sca", "first").await.unwrap();

    let mark = world.mark().await;
    world
        .edit("sca", json!({ "metadata": { "labels": { "team": "appsec" } } }))
        .await;
    world.settle("sca", &operator).await;
    let requests = world.acts_since(mark).await;
    assert_eq!(counts(&requests), Vec::<String>::new(), "a label costs nothing");

    spec["target"] = json!({
        "data": { "second": "$(token)", "header": "Bearer $(token)" }, "labels": { "a": "b" }, "annotations": { "c": "d" },
    });
    world.apply("sca", spec.clone()).await;
    world
        .until_data("sca", "header", |header| header == format!("Bearer {value}"))
        .await;
    let target = world.secret("sca").await;
    assert_eq!(
        target.data.unwrap().into_keys().collect::<Vec<_>>(),
        ["header", "second"]
    );
    assert_eq!(target.metadata.labels.unwrap()["a"], "b");
    assert_eq!(target.metadata.annotations.unwrap()["c"], "d");

    spec["target"]["data"]["header"] = json!("Token $(token)");
    world.apply("sca", spec.clone()).await;
    world
        .until_data("sca", "header", |header| header == format!("Token {value}"))
        .await;

    let next = world
        .ready("sca", "True Published")
        .await
        .status
        .unwrap()
        .next_refresh_time;
    spec["refresh"] = json!({ "atLifetimePercent": 50 });
    world.apply("sca", spec).await;
    world
        .until("the new refresh time", async || {
            let status = world.token("sca").await.status.unwrap();
            if status.next_refresh_time < next {
                Ok(())
            } else {
                Err(format!("{:?}", status.next_refresh_time))
            }
        })
        .await;
    world.settle("sca", &operator).await;
    let token = world.ready("sca", "True Published").await;
    assert_eq!(
        token.status.unwrap().observed_generation,
        token.metadata.generation
    );
    assert_eq!(world.calls(VENDOR), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_of_the_grant_costs_one_vendor_call() {
    let world = World::new("tenant").await;
    let operator = world.operator().await;
    world.published(VENDOR, "sca").await;
    world.change_tenant("sca", "other").await;
    world
        .until_data("sca", "token", |value| {
            world.simulator.validate(VENDOR, value).credential.as_deref() == Some("other/sca")
        })
        .await;
    world.ready("sca", "True Published").await;
    world.settle("sca", &operator).await;
    assert_eq!(world.calls(VENDOR), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_the_former_grant_is_not_ready_while_the_new_one_is_asked_for() {
    let world = World::new("former").await;
    let _operator = world.operator().await;
    world.published(VENDOR, "sca").await;
    world.simulator.add_fault(Fault::new(VENDOR, Effect::Hang));
    world
        .edit(
            "sca",
            json!({ "spec": { "checkmarxSCA": { "tenant": "other" } } }),
        )
        .await;
    world.ready("sca", "False Progressing +Reconciling").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_request_brings_exactly_one_call() {
    let world = &World::new("requested").await;
    let operator = world.operator().await;
    for_every_vendor(async |vendor, object| {
        world.published(vendor, &object).await;
    })
    .await;
    // Two grants of a credential are kept half a minute apart, asked for or not.
    world.clock.pass(40);
    for_every_vendor(async |_, object| {
        let first = world.data(&object, "token").await.unwrap();
        world.request_refresh(&object, "once").await;
        world.until_data(&object, "token", |value| value != first).await;
        world
            .until("the request to be echoed", async || {
                match world
                    .token(&object)
                    .await
                    .status
                    .unwrap()
                    .last_handled_refresh_request
                {
                    Some(handled) if handled == "once" => Ok(()),
                    other => Err(format!("{other:?}")),
                }
            })
            .await;
        let annotations = world.secret(&object).await.metadata.annotations.unwrap();
        assert_eq!(annotations[names::REFRESH_HANDLED], "once");
        world.ready(&object, "True Published").await;
        world.request_refresh(&object, "once").await;
    })
    .await;
    // Neither later nor after a restart.
    world.clock.pass(40);
    for_every_vendor(async |_, object| world.settle(&object, &operator).await).await;
    operator.stop().await;
    let operator = world.operator().await;
    for_every_vendor(async |vendor, object| {
        world.settle(&object, &operator).await;
        assert_eq!(world.calls(vendor), 2, "{vendor}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_request_that_fails_is_handled_too() {
    let world = World::new("request-fails").await;
    let operator = world.operator().await;
    let first = world.published(VENDOR, "sca").await;
    let down = Effect::Answer {
        status: 500,
        headers: Vec::new(),
        body: String::new(),
    };
    world.simulator.add_fault(Fault::new(VENDOR, down).times(1));
    world.clock.pass(60);
    world.request_refresh("sca", "now").await;
    let token = world.ready("sca", "True VendorUnavailable +RefreshFailing").await;
    assert_eq!(
        token.status.unwrap().last_handled_refresh_request.as_deref(),
        Some("now")
    );
    assert_eq!(world.data("sca", "token").await, Some(first));
    world.settle("sca", &operator).await;
    assert_eq!(world.calls(VENDOR), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_vendor_token_does_nothing_until_it_is_resumed() {
    let world = &World::new("suspended").await;
    let operator = world.operator().await;
    for_every_vendor(async |vendor, object| {
        world.register(vendor, &object).await;
        let mut spec = vendors::spec(vendor, &object);
        spec["suspend"] = json!(true);
        world.apply(&object, spec).await;
        world.ready(&object, "False Suspended +Suspended").await;
        world.settle(&object, &operator).await;
        assert_eq!(world.calls(vendor), 0, "{vendor}");

        world.edit(&object, json!({ "spec": { "suspend": false } })).await;
        world.ready(&object, "True Published").await;
        let value = world.data(&object, "token").await.unwrap();
        world.edit(&object, json!({ "spec": { "suspend": true } })).await;
        world.ready(&object, "True Suspended +Suspended").await;
        world
            .edit_secret(&object, json!({ "data": { "token": "ZWRpdGVk" } }))
            .await;
        world.settle(&object, &operator).await;
        assert_eq!(world.data(&object, "token").await.as_deref(), Some("edited"));

        world.edit(&object, json!({ "spec": { "suspend": false } })).await;
        world
            .until_data(&object, "token", |restored| restored == value)
            .await;
        world.ready(&object, "True Published").await;
        assert_eq!(world.calls(vendor), 1, "{vendor}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_request_waits_for_the_end_of_a_suspension() {
    let world = World::new("pending").await;
    let operator = world.operator().await;
    let first = world.published(VENDOR, "sca").await;
    world.clock.pass(40);
    let both = json!({
        "metadata": { "annotations": { names::REFRESH_REQUESTED_AT: "now" } }, "spec": { "suspend": true },
    });
    world.edit("sca", both).await;
    let status = world
        .ready("sca", "True Suspended +Suspended")
        .await
        .status
        .unwrap();
    assert_eq!(status.last_handled_refresh_request, None);
    world.settle("sca", &operator).await;
    assert_eq!(world.calls(VENDOR), 1);
    world.edit("sca", json!({ "spec": { "suspend": false } })).await;
    world.until_data("sca", "token", |value| value != first).await;
    world.settle("sca", &operator).await;
    assert_eq!(world.calls(VENDOR), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_the_default_has_made_does_not_stay_beside_those_that_an_apply_names() {
    let world = World::new("default").await;
    let _operator = world.operator().await;
    world.published(VENDOR, "sca").await;
    let mut spec = vendors::spec(VENDOR, "sca");
    spec["target"] = json!({ "data": { "header": "Bearer $(token)" } });
    world.apply("sca", spec).await;
    world
        .until_data("sca", "header", |header| header.starts_with("Bearer "))
        .await;
    let keys: Vec<_> = world.secret("sca").await.data.unwrap().into_keys().collect();
    assert_eq!(keys, ["header"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spec_that_cannot_be_used_loses_nothing() {
    let world = World::new("invalid-spec").await;
    let operator = world.operator().await;
    let value = world.published(Vendor::SixClicks, "sixclicks").await;
    let good = world.ready("sixclicks", "True Published").await.status.unwrap();
    // The schema cannot tell: it is a region by its form.
    let region = |region: &str| json!({ "spec": { "sixClicks": { "region": region } } });
    world.edit("sixclicks", region("app-au")).await;
    let stalled = world
        .ready("sixclicks", "False InvalidSpec +Stalled")
        .await
        .status
        .unwrap();
    let message = world.message("sixclicks").await;
    assert!(
        message.contains("sixClicks.region") && message.contains("write only the part after it"),
        "{message}"
    );
    assert_eq!(stalled.binding, good.binding);
    assert_eq!(stalled.expiration_time, good.expiration_time);
    world.settle("sixclicks", &operator).await;
    assert_eq!(world.data("sixclicks", "token").await, Some(value.clone()));
    assert_eq!(world.calls(Vendor::SixClicks), 1);

    // What was there before is good again.
    let before = vendors::spec(Vendor::SixClicks, "sixclicks")["sixClicks"]["region"].clone();
    world.edit("sixclicks", region(before.as_str().unwrap())).await;
    world.ready("sixclicks", "True Published").await;
    assert_eq!(world.data("sixclicks", "token").await, Some(value));
    assert_eq!(world.calls(Vendor::SixClicks), 1);
}
