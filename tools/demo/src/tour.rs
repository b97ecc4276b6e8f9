//! The five steps of the demo, and its summary.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;
use test_support::{Error, apply};
use vendor_simulator::{Effect, Fault, Options, Vendor};

use crate::cluster::NAMESPACE;
use crate::screen::Screen;
use crate::stage::Stage;
use crate::table::{Row, render};

/// Short enough to see a refresh.
const SIXMAP_LIFETIME_SECONDS: u64 = 40;
/// The wait that Mapiq asks for.
const MAPIQ_WAIT_SECONDS: u64 = 10;
/// Length of the look at Checkmarx without another request.
const QUIET: Duration = Duration::from_secs(4);

/// Settings of the simulator.
pub(crate) fn options() -> Options {
    Options::default().lifetime(Vendor::SixMap, SIXMAP_LIFETIME_SECONDS)
}

/// Runs all steps.
pub(crate) async fn run(stage: &mut Stage, screen: &mut Screen) -> Result<(), Error> {
    first_tokens(stage, screen).await?;
    rejected_password(stage, screen).await?;
    refresh(stage, screen).await?;
    repair(stage, screen).await?;
    deleted_target(stage, screen).await?;
    Ok(())
}

fn step(screen: &Screen, number: u8, title: &str) {
    screen.say("");
    screen.paragraph(&format!("[{number}/5] {title}"));
}

async fn first_tokens(stage: &mut Stage, screen: &mut Screen) -> Result<(), Error> {
    step(
        screen,
        1,
        &format!(
            "First tokens. The credentials Secrets and VendorTokens of deploy/examples/ are created. Mapiq's first answer is a \
             429, \"Try again in {MAPIQ_WAIT_SECONDS} seconds.\": the operator asks again when they have passed, and no sooner."
        ),
    );
    let throttled = Effect::Throttle {
        retry_after: None,
        seconds: MAPIQ_WAIT_SECONDS,
    };
    stage
        .simulator
        .add_fault(Fault::new(Vendor::Mapiq, throttled).times(1));
    for example in &stage.examples {
        apply(stage.client(), NAMESPACE, &example.yaml).await?;
    }
    stage
        .until(screen, "five VendorTokens that are Ready", |stage| {
            stage.rows.iter().all(Row::is_well)
        })
        .await?;
    screen.event(&format!(
        "All five are Ready. Mapiq was asked {}: before the wait, and after it.",
        times(stage.calls(Vendor::Mapiq))
    ));
    Ok(())
}

async fn rejected_password(stage: &mut Stage, screen: &mut Screen) -> Result<(), Error> {
    step(
        screen,
        2,
        "A rejected password. The password at Checkmarx is changed, and mistyped in its Secret. A few wrong ones lock an \
         account: the operator asks once, says what to do, and leaves the token that is still valid.",
    );
    let before = stage.calls(Vendor::CheckmarxSca);
    let new = stage
        .examples
        .iter()
        .find(|example| example.vendor == Vendor::CheckmarxSca)
        .map(|example| example.credential.clone());
    if let Some(mut credential) = new {
        credential.secret = NEW_PASSWORD.to_owned();
        stage.simulator.put_credential(Vendor::CheckmarxSca, credential);
    }
    set_password(stage, "a-typing-error").await?;
    let rejected = |stage: &Stage| {
        stage
            .row(Vendor::CheckmarxSca)
            .is_some_and(|row| row.reason == "CredentialsRejected")
    };
    stage.until(screen, "Checkmarx' rejection", rejected).await?;
    let since = Instant::now();
    stage
        .until(screen, "a quiet moment", |_| since.elapsed() >= QUIET)
        .await?;
    let calls = stage.calls(Vendor::CheckmarxSca) - before;
    if calls != 1 {
        return Err(Error::Other(format!(
            "Checkmarx was asked {calls} times with a wrong password; once was expected"
        )));
    }
    screen.event("Checkmarx was asked once with it, and is not asked again before something changes.");
    Ok(())
}

const NEW_PASSWORD: &str = "the-new-password";

async fn set_password(stage: &Stage, password: &str) -> Result<(), Error> {
    let Some(example) = stage
        .examples
        .iter()
        .find(|example| example.vendor == Vendor::CheckmarxSca)
    else {
        return Ok(());
    };
    let change = json!({ "stringData": { "password": password } });
    stage
        .secrets()
        .patch(
            &example.credentials_secret,
            &PatchParams::default(),
            &Patch::Merge(change),
        )
        .await
        .map_err(Error::step(format!(
            "change the Secret {}",
            example.credentials_secret
        )))?;
    Ok(())
}

async fn refresh(stage: &mut Stage, screen: &mut Screen) -> Result<(), Error> {
    step(
        screen,
        3,
        &format!(
            "A refresh. SixMap's tokens live {SIXMAP_LIFETIME_SECONDS} s here: a new one is published well before the old \
             one expires."
        ),
    );
    let renewed = |stage: &Stage| stage.row(Vendor::SixMap).is_some_and(|row| row.renewed > 0);
    stage.until(screen, "SixMap's refresh", renewed).await
}

async fn repair(stage: &mut Stage, screen: &mut Screen) -> Result<(), Error> {
    step(
        screen,
        4,
        "The repair. The right password is written to Checkmarx' Secret: the operator sees that and asks again.",
    );
    set_password(stage, NEW_PASSWORD).await?;
    let repaired = |stage: &Stage| {
        stage
            .row(Vendor::CheckmarxSca)
            .is_some_and(|row| row.is_well() && row.renewed > 0)
    };
    stage.until(screen, "Checkmarx' new token", repaired).await
}

async fn deleted_target(stage: &mut Stage, screen: &mut Screen) -> Result<(), Error> {
    step(
        screen,
        5,
        "An accident. The Secret picus-token is deleted: it is written again, without a request to Picus.",
    );
    let Some(target) = stage.row(Vendor::Picus).map(|row| row.target.clone()) else {
        return Ok(());
    };
    let before = stage.calls(Vendor::Picus);
    let old = stage.target(&target).cloned();
    stage
        .secrets()
        .delete(&target, &DeleteParams::default())
        .await
        .map_err(Error::step(format!("delete the Secret {target}")))?;
    let started = Instant::now();
    stage
        .until(screen, "the Secret written again", |stage| {
            stage.target(&target).is_some_and(|uid| Some(uid) != old.as_ref())
        })
        .await?;
    screen.event(&format!(
        "The Secret {target} was back within {:.1} s; Picus was {}.",
        started.elapsed().as_secs_f64(),
        match stage.calls(Vendor::Picus) - before {
            0 => "not asked".to_owned(),
            calls => format!("asked {}", times(calls)),
        }
    ));
    Ok(())
}

/// A count in words, for one and more.
fn times(count: u64) -> String {
    match count {
        1 => "once".to_owned(),
        2 => "twice".to_owned(),
        _ => format!("{count} times"),
    }
}

/// Prints the result.
///
/// # Errors
/// When the result is not as the demo promises.
pub(crate) async fn summarise(stage: &Stage, screen: &mut Screen) -> Result<(), Error> {
    screen.leave_table();
    if !screen.is_live() {
        let table = render(&stage.rows, Timestamp::now(), screen.width());
        screen.say(table.join("\n").trim_end());
    }
    let ready = stage.rows.iter().filter(|row| row.is_well()).count();
    let usable = stage.usable().await?;
    let renewed: Vec<String> = stage
        .rows
        .iter()
        .filter(|row| row.renewed > 0)
        .map(|row| format!("{} {}", row.name, times(row.renewed.into())))
        .collect();
    let refreshed = stage.row(Vendor::SixMap).map_or(0, |row| row.renewed);
    let calls: Vec<String> = Vendor::ALL
        .into_iter()
        .map(|vendor| calls_of(stage, vendor))
        .collect();
    let violations = stage.simulator.violations();
    screen.say(&format!(
        "\nSummary, after {:.0} s\n\
         \x20 {ready} of {} VendorTokens are Ready, and {usable} Secrets hold a token that its vendor takes\n\
         \x20 refreshed before expiry or replaced: {}\n\
         \x20 {} looks at the Secrets found {} that a workload could not have used\n\
         \x20 vendor calls: {}\n\
         \x20 {} of them against a vendor's rules",
        screen.elapsed(),
        stage.rows.len(),
        if renewed.is_empty() {
            "none".to_owned()
        } else {
            renewed.join(", ")
        },
        stage.looks,
        match stage.unusable.len() {
            0 => "none".to_owned(),
            count => count.to_string(),
        },
        calls.join(", "),
        match violations.len() {
            0 => "none".to_owned(),
            count => count.to_string(),
        },
    ));
    let mut wrong = Vec::new();
    if ready < stage.rows.len() || usable < stage.rows.len() {
        wrong.push(format!(
            "{ready} of {} are Ready, and {usable} usable",
            stage.rows.len()
        ));
    }
    if refreshed == 0 {
        wrong.push("nothing was refreshed".to_owned());
    }
    wrong.extend(stage.unusable.first().cloned());
    wrong.extend(violations.first().and_then(|call| call.violation.clone()));
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(Error::Other(format!(
            "the demo did not show what it should: {}; the end of the operator's log:\n{}",
            wrong.join("; "),
            stage.log_tail()
        )))
    }
}

/// As in `Mapiq 2 (429: 1)`.
fn calls_of(stage: &Stage, vendor: Vendor) -> String {
    let counts = stage.simulator.total(vendor);
    let others: Vec<String> = counts
        .by_status
        .iter()
        .filter(|(status, _)| **status != 200)
        .map(|(status, count)| format!("answered {status}: {count}"))
        .collect();
    let name = vendor.name();
    if others.is_empty() {
        format!("{name} {}", counts.calls)
    } else {
        format!("{name} {} ({})", counts.calls, others.join(", "))
    }
}
