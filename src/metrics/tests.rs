//! Tests of the exposed text.

use std::collections::BTreeMap;

use super::*;

fn labels(name: &str) -> ObjectLabels {
    ObjectLabels {
        namespace: "appsec".into(),
        name: name.into(),
        vendor: "Picus",
    }
}

fn time(second: i64) -> Option<Timestamp> {
    Some(Timestamp::from_second(second).unwrap())
}

const NEED: Option<Need> = Some(Need {
    endpoint: 1,
    published: 2,
    grant: None,
    seconds: 24,
});

/// Metrics with a series in each family.
fn filled() -> Metrics {
    let metrics = Metrics::new();
    metrics.object_observed(&labels("a"), true, time(1_800_000_000), time(1_799_999_000), NEED);
    metrics.vendor_request(
        Vendor::Mapiq,
        Err(FailureClass::Throttled),
        Duration::from_millis(120),
    );
    metrics.vendor_throttled_until(Vendor::Mapiq, Timestamp::from_second(9_800_000_289).unwrap());
    metrics.vendor_budget(Vendor::Mapiq, Some(20));
    metrics.refreshed(Duration::from_secs(2));
    metrics.reconciled("ok", Duration::from_millis(3));
    metrics.leader(true);
    metrics.watch_event("secrets", Timestamp::from_second(1_800_000_001).unwrap());
    metrics.watch_failure("secrets");
    metrics.undecodable_objects(Kind::VendorToken, 2);
    metrics.undecodable_objects(Kind::Secret, 1);
    metrics.api_request("PATCH", "vendortokens/status".into(), "200".into());
    metrics
}

fn series(text: &str, start: &str) -> Vec<String> {
    text.lines()
        .filter(|line| line.starts_with(start))
        .map(str::to_owned)
        .collect()
}

#[test]
fn each_documented_metric_is_exposed_with_its_labels() {
    let text = filled().encode().unwrap();
    for line in [
        r#"vendortoken_ready{namespace="appsec",name="a",vendor="Picus"} 1"#,
        r#"vendortoken_expiration_timestamp_seconds{namespace="appsec",name="a",vendor="Picus"} 1800000000"#,
        r#"vendortoken_next_refresh_timestamp_seconds{namespace="appsec",name="a",vendor="Picus"} 1799999000"#,
        r#"vendortoken_vendor_requests_total{vendor="Mapiq",outcome="throttled"} 1"#,
        r#"vendortoken_vendor_request_duration_seconds_bucket{le="0.25",vendor="Mapiq"} 1"#,
        r#"vendortoken_vendor_throttled_until_timestamp_seconds{vendor="Mapiq"} 9800000289"#,
        r#"vendortoken_vendor_budget_required_per_minute{vendor="Picus"} 2.5"#,
        r#"vendortoken_vendor_budget_per_minute{vendor="Mapiq"} 20.0"#,
        r#"vendortoken_refresh_lateness_seconds_sum 2.0"#,
        r#"vendortoken_api_requests_total{verb="PATCH",resource="vendortokens/status",code="200"} 1"#,
        r#"vendortoken_reconcile_total{result="ok"} 1"#,
        r#"vendortoken_reconcile_duration_seconds_count 1"#,
        r#"vendortoken_leader 1"#,
        r#"vendortoken_watch_failures_total{watch="secrets"} 1"#,
        r#"vendortoken_watch_last_event_timestamp_seconds{watch="secrets"} 1800000001"#,
        r#"vendortoken_undecodable_objects 3"#,
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "{line}\nis not in\n{text}"
        );
    }
    let version = format!(
        r#"vendortoken_build_info{{version="{}"}} 1"#,
        env!("CARGO_PKG_VERSION")
    );
    assert_eq!(series(&text, "vendortoken_build_info"), [version]);
}

#[test]
fn only_the_series_of_the_removed_object_vanish() {
    let metrics = filled();
    metrics.object_observed(&labels("b"), false, None, time(5), None);
    metrics.object_removed("appsec", "a");
    let text = metrics.encode().unwrap();
    assert!(!text.contains(r#"name="a""#), "{text}");
    assert_eq!(series(&text, "vendortoken_ready{").len(), 1);
    let needs_nothing = r#"vendortoken_vendor_budget_required_per_minute{vendor="Picus"} 0.0"#;
    assert_eq!(
        series(&text, "vendortoken_vendor_budget_required"),
        [needs_nothing]
    );
    assert_eq!(
        series(&text, "vendortoken_expiration_timestamp_seconds{").len(),
        0,
        "unknown: no series"
    );
}

#[test]
fn an_object_that_changes_its_vendor_has_one_series() {
    let metrics = filled();
    let changed = ObjectLabels {
        vendor: "SixMap",
        ..labels("a")
    };
    metrics.object_observed(&changed, false, None, None, None);
    let text = metrics.encode().unwrap();
    assert_eq!(
        series(&text, "vendortoken_ready{"),
        [r#"vendortoken_ready{namespace="appsec",name="a",vendor="SixMap"} 0"#]
    );
}

#[test]
fn a_vendor_without_a_limit_has_no_budget_series() {
    let metrics = filled();
    metrics.vendor_budget(Vendor::Mapiq, None);
    let text = metrics.encode().unwrap();
    assert_eq!(series(&text, "vendortoken_vendor_budget_per_minute{").len(), 0);
}

#[test]
fn a_process_that_steps_down_shows_no_object() {
    let metrics = filled();
    metrics.all_objects_removed();
    metrics.watch_event("secrets", Timestamp::UNIX_EPOCH);
    metrics.watches_ended();
    let text = metrics.encode().unwrap();
    for gone in [
        "vendortoken_ready{",
        "vendortoken_watch_last_event",
        "vendortoken_vendor_budget_required",
        "vendortoken_vendor_throttled",
    ] {
        assert_eq!(series(&text, gone), Vec::<String>::new());
    }
}

#[cfg(target_os = "linux")]
#[test]
fn the_figures_of_the_process_are_plausible() {
    let text = filled().encode().unwrap();
    let value = |name: &str| -> f64 {
        let line = series(&text, &format!("{name} "))
            .pop()
            .unwrap_or_else(|| panic!("{name} in {text}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    assert!(value("process_resident_memory_bytes") > 1e5);
    assert!(value("process_virtual_memory_bytes") >= value("process_resident_memory_bytes"));
    assert!(value("process_open_fds") >= 3.0);
    assert!(value("process_max_fds") >= value("process_open_fds"));
    assert!(value("process_cpu_seconds_total") >= 0.0);
    let age = Timestamp::now().as_second() as f64 - value("process_start_time_seconds");
    assert!((-2.0..86_400.0).contains(&age), "{age}");
}

/// The rules of `promtool check metrics`, and those of OpenMetrics 1.0 on which scrapers insist.
#[test]
fn the_exposed_text_passes_a_lint() {
    let text = filled().encode().unwrap();
    assert!(text.ends_with("# EOF\n"));
    let mut kinds: BTreeMap<String, String> = BTreeMap::new();
    let mut helps: BTreeMap<String, String> = BTreeMap::new();
    let mut seen = std::collections::BTreeSet::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(
                help.len() > 15 && help.ends_with('.') && !help.ends_with(".."),
                "{line}"
            );
            assert!(helps.insert(name.into(), help.into()).is_none(), "twice: {name}");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(helps.contains_key(name), "no help: {name}");
            assert!(
                name.starts_with("vendortoken_") || name.starts_with("process_"),
                "{name}"
            );
            assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{name}");
            for suffix in [
                "_total",
                "_count",
                "_sum",
                "_bucket",
                "_milliseconds",
                "_gauge",
                "_counter",
            ] {
                assert!(!name.ends_with(suffix), "{name}");
            }
            kinds.insert(name.into(), kind.into());
        } else if !line.starts_with('#') {
            let name = line.split(['{', ' ']).next().unwrap();
            let (family, kind) = kinds
                .iter()
                .filter(|(family, _)| name == *family || name.starts_with(&format!("{family}_")))
                .max_by_key(|(family, _)| family.len())
                .unwrap_or_else(|| panic!("no type: {line}"));
            let suffix = &name[family.len()..];
            let allowed: &[&str] = match kind.as_str() {
                "counter" => &["_total"],
                "gauge" => &[""],
                "info" => &["_info"],
                "histogram" => &["_bucket", "_sum", "_count"],
                other => panic!("unknown type {other}"),
            };
            assert!(allowed.contains(&suffix), "{line}");
            assert!(line.rsplit(' ').next().unwrap().parse::<f64>().is_ok(), "{line}");
            assert!(
                seen.insert(line.rsplit_once(' ').unwrap().0.to_owned()),
                "twice: {line}"
            );
        }
    }
    for (name, kind) in &kinds {
        let timed = kind == "histogram" || name.contains("timestamp") || name.contains("duration");
        assert!(!timed || name.ends_with("_seconds"), "no unit: {name}");
        let unit = format!("# UNIT {name} seconds");
        assert!(!name.ends_with("_seconds") || text.contains(&unit), "{unit}");
    }
    assert!(kinds.len() >= 17, "{kinds:?}");
}
