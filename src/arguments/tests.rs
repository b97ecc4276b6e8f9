use std::process::Command as Process;

use rstest::rstest;

use super::*;

fn line(flags: &[&str]) -> Vec<String> {
    std::iter::once("vendor-token-operator")
        .chain(flags.iter().copied())
        .map(str::to_owned)
        .collect()
}

fn run(flags: &[&str]) -> RunArguments {
    match parse(line(flags)).unwrap() {
        Invocation::Run(run) => *run,
        Invocation::Crd => panic!("crd"),
    }
}

fn refused(flags: &[&str]) -> String {
    let error = parse(line(flags)).map(drop).unwrap_err();
    assert_eq!(error.exit_code(), 2, "{error}");
    error.to_string()
}

#[test]
fn the_defaults_are_as_documented() {
    for flags in [&[][..], &["run"]] {
        let run = run(flags);
        assert_eq!(
            (&run.kubeconfig, &run.context, &run.vendor_ca_file),
            (&None, &None, &None)
        );
        assert!(run.watch_namespaces.is_empty() && run.secret_watch && run.leader_elect);
        assert_eq!(run.max_concurrent_requests, 32);
        assert_eq!(run.metrics_bind_address.to_string(), "[::]:8080");
        assert_eq!(run.health_probe_bind_address.to_string(), "[::]:8081");
        assert_eq!(run.log_format, LogFormat::Json);
        assert_eq!(run.log_level, "info".parse().unwrap());
        let limits = Vendor::ALL.map(|vendor| (vendor, run.rate_limit(vendor)));
        for (vendor, limit) in limits {
            assert_eq!(
                limit,
                Some(if vendor == Vendor::Mapiq { 20 } else { 600 }),
                "{vendor}"
            );
            assert_eq!(run.endpoint(vendor), None);
        }
    }
}

/// The value that a flag or its variable has set, as text.
fn shown(run: &RunArguments, flag: &str) -> String {
    match flag {
        "kubeconfig" => format!("{:?}", run.kubeconfig),
        "context" => format!("{:?}", run.context),
        "watch-namespace" => format!("{:?}", run.watch_namespaces),
        "secret-watch" => run.secret_watch.to_string(),
        "leader-elect" => run.leader_elect.to_string(),
        "operator-namespace" => run.operator_namespace(),
        "endpoint" => format!(
            "{:?}",
            Vendor::ALL.map(|vendor| run.endpoint(vendor).map(|e| e.origin.clone()))
        ),
        "vendor-ca-file" => format!("{:?}", run.vendor_ca_file),
        "rate-limit" => format!("{:?}", Vendor::ALL.map(|vendor| run.rate_limit(vendor))),
        "max-concurrent-requests" => run.max_concurrent_requests.to_string(),
        "metrics-bind-address" => run.metrics_bind_address.to_string(),
        "health-probe-bind-address" => run.health_probe_bind_address.to_string(),
        "log-format" => format!("{:?}", run.log_format),
        "log-level" => run.log_level.to_string(),
        other => panic!("no such flag in this table: {other}"),
    }
}

const TABLE: [(&str, &str, &str); 15] = [
    ("kubeconfig", "/etc/kubeconfig", r#"Some("/etc/kubeconfig")"#),
    ("context", "staging", r#"Some("staging")"#),
    ("watch-namespace", "appsec,platform", r#"["appsec", "platform"]"#),
    ("secret-watch", "false", "false"),
    ("leader-elect", "false", "false"),
    ("operator-namespace", "tokens", "tokens"),
    (
        "endpoint",
        "SixMap=https://a.example:8443,Picus=https://b.example",
        r#"[Some("https://a.example:8443"), None, None, None, Some("https://b.example")]"#,
    ),
    ("vendor-ca-file", "/etc/ca.pem", r#"Some("/etc/ca.pem")"#),
    (
        "rate-limit",
        "Mapiq=30/min,SixMap=0",
        "[None, Some(600), Some(600), Some(30), Some(600)]",
    ),
    ("max-concurrent-requests", "7", "7"),
    ("metrics-bind-address", "127.0.0.1:0", "127.0.0.1:0"),
    ("health-probe-bind-address", "[::1]:9", "[::1]:9"),
    ("log-format", "text", "Text"),
    (
        "log-level",
        "debug",
        "warn,vendor_token_operator=debug,kubectl_vendortoken=debug",
    ),
    ("log-level", "info,kube_runtime=debug", "info,kube_runtime=debug"),
];

#[test]
fn each_flag_sets_its_value_with_and_without_run() {
    for (flag, value, expected) in TABLE {
        let argument = format!("--{flag}={value}");
        assert_eq!(shown(&run(&[&argument]), flag), expected, "{argument}");
        assert_eq!(shown(&run(&["run", &argument]), flag), expected, "run {argument}");
    }
}

#[test]
fn each_flag_is_in_the_table_and_names_its_variable() {
    let command = CommandLine::command();
    for flag in command
        .get_arguments()
        .filter(|flag| !matches!(flag.get_id().as_str(), "help" | "version"))
    {
        let name = flag.get_long().unwrap();
        assert!(TABLE.iter().any(|(listed, ..)| *listed == name), "{name}");
        let variable = format!("VENDOR_TOKEN_OPERATOR_{}", name.to_uppercase().replace('-', "_"));
        assert_eq!(flag.get_env(), Some(variable.as_ref()), "{name}");
    }
}

/// The next test runs it in a process with the variables.
#[test]
#[ignore = "helper of each_variable_sets_its_value_and_a_flag_wins"]
fn helper_print_values() {
    for (flag, ..) in &TABLE[..14] {
        println!("\n{flag}: {}", shown(&run(&[]), flag));
        println!("run {flag}: {}", shown(&run(&["run"]), flag));
    }
    println!(
        "flag wins: {}",
        run(&["--max-concurrent-requests", "9"]).max_concurrent_requests
    );
    println!("crd: {}", matches!(parse(line(&["crd"])), Ok(Invocation::Crd)));
}

#[test]
fn each_variable_sets_its_value_and_a_flag_wins() {
    let variables = TABLE[..14].iter().map(|(flag, value, _)| {
        (
            format!("VENDOR_TOKEN_OPERATOR_{}", flag.to_uppercase().replace('-', "_")),
            *value,
        )
    });
    let output = Process::new(std::env::current_exe().unwrap())
        .args([
            "--ignored",
            "--exact",
            "--nocapture",
            "arguments::tests::helper_print_values",
        ])
        .envs(variables)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    for (flag, _, expected) in &TABLE[..14] {
        for expected in [format!("{flag}: {expected}"), format!("run {flag}: {expected}")] {
            assert!(
                text.lines().any(|line| line == expected),
                "{expected} is not in\n{text}"
            );
        }
    }
    assert!(
        text.contains("flag wins: 9\n") && text.contains("crd: true\n"),
        "{text}"
    );
}

/// Reads a command line beside one variable.
fn beside(flags: &[&str], variable: &str, value: &str) -> Result<RunArguments, clap::Error> {
    let line = line(flags).into_iter().map(Into::into).collect();
    let line = environment::parse(line, |name| (name == variable).then(|| value.into()))?;
    Ok(match line.command {
        Some(Command::Run(run)) => *run,
        _ => line.run,
    })
}

/// Each flag and its variable, as clap knows them.
fn variables() -> Vec<(String, String)> {
    let command = CommandLine::command();
    let flags = command.get_arguments().filter(|flag| flag.get_env().is_some());
    flags
        .map(|flag| {
            let variable = flag.get_env().unwrap().to_str().unwrap();
            (flag.get_long().unwrap().to_owned(), variable.to_owned())
        })
        .collect()
}

#[test]
fn an_empty_variable_counts_as_unset_for_every_flag() {
    let unset = format!("{:?}", run(&[]));
    assert!(variables().len() >= 14);
    for (_, variable) in variables() {
        for flags in [&[][..], &["run"]] {
            for empty in ["", " ", "\n"] {
                let run =
                    beside(flags, &variable, empty).unwrap_or_else(|error| panic!("{variable}: {error}"));
                assert_eq!(format!("{run:?}"), unset, "{variable}={empty:?}");
            }
        }
    }
}

#[test]
fn empty_parts_of_a_list_are_left_out_for_every_flag_that_takes_one() {
    let command = CommandLine::command();
    let lists: Vec<_> = command
        .get_arguments()
        .filter(|flag| flag.get_value_delimiter().is_some())
        .map(|flag| flag.get_long().unwrap())
        .collect();
    assert!(lists.len() >= 3, "{lists:?}");
    for flag in lists {
        let variable = format!("VENDOR_TOKEN_OPERATOR_{}", flag.to_uppercase().replace('-', "_"));
        let (_, value, expected) = TABLE.into_iter().find(|(name, ..)| *name == flag).unwrap();
        for list in [format!("{value},"), format!(",{}, ", value.replace(',', ", ,"))] {
            let run = beside(&[], &variable, &list).unwrap_or_else(|error| panic!("{list}: {error}"));
            assert_eq!(shown(&run, flag), expected, "{list}");
        }
        let run = beside(&[], &variable, ",").unwrap();
        assert_eq!(shown(&run, flag), shown(&self::run(&[]), flag), "{flag}");
    }
}

/// Flags that take any text, which is checked where it is used.
const UNCHECKED: [&str; 3] = ["kubeconfig", "context", "vendor-ca-file"];

#[test]
fn the_error_of_a_variable_names_it_for_every_flag_that_is_checked() {
    for (flag, variable) in variables() {
        if UNCHECKED.contains(&flag.as_str()) {
            continue;
        }
        let error = beside(&["run"], &variable, "?/nonsense").map(drop).unwrap_err();
        let text = error.to_string();
        assert_eq!(error.exit_code(), 2, "{text}");
        assert!(
            text.contains(&variable) && text.contains(&format!("--{flag}")),
            "{text}"
        );
    }
}

#[rstest]
#[case("ENDPOINT", "SixMap=https://a.example,SixMap=https://b.example")]
#[case("RATE_LIMIT", "SixMap=1,SixMap=2")]
fn a_vendor_that_a_variable_names_twice_is_an_error_of_the_variable(#[case] name: &str, #[case] value: &str) {
    let variable = format!("VENDOR_TOKEN_OPERATOR_{name}");
    let text = beside(&[], &variable, value).map(drop).unwrap_err().to_string();
    assert!(
        text.contains(&variable) && text.contains("names SixMap twice"),
        "{text}"
    );
}

#[test]
fn a_flag_wins_over_a_variable_that_is_wrong() {
    for (flag, value, expected) in TABLE {
        let variable = format!("VENDOR_TOKEN_OPERATOR_{}", flag.to_uppercase().replace('-', "_"));
        let run = beside(&["run", &format!("--{flag}={value}")], &variable, "?/nonsense").unwrap();
        assert_eq!(shown(&run, flag), expected);
    }
    let run = beside(&["--context", "mine"], "VENDOR_TOKEN_OPERATOR_CONTEXT", "other").unwrap();
    assert_eq!(run.context.as_deref(), Some("mine"));
}

#[test]
fn a_flag_that_may_be_repeated_adds_up() {
    let run = run(&[
        "--watch-namespace=a",
        "--watch-namespace",
        "b",
        "--rate-limit=Mapiq=1",
        "--rate-limit=Picus=2",
    ]);
    assert_eq!(run.watch_namespaces, ["a", "b"]);
    assert_eq!(
        (run.rate_limit(Vendor::Mapiq), run.rate_limit(Vendor::Picus)),
        (Some(1), Some(2))
    );
}

#[test]
fn a_switch_alone_is_true() {
    assert!(run(&["--leader-elect", "--secret-watch"]).leader_elect);
    assert!(matches!(parse(line(&["crd"])).unwrap(), Invocation::Crd));
}

#[rstest]
#[case(&["--nothing"], "--nothing")]
#[case(&["crd", "--leader-elect"], "--leader-elect")]
#[case(&["start"], "start")]
#[case(&["--endpoint=SixMap=http://a.example"], "https://")]
#[case(&["--endpoint=SixMap=https://a.example/path"], "path")]
#[case(&["--endpoint=https://a.example"], "VENDOR")]
#[case(&["--endpoint=SixMap=https://a.example", "--endpoint=SixMap=https://b.example"], "names SixMap twice")]
#[case(&["--rate-limit=Mapiq=1,Mapiq=2"], "names Mapiq twice")]
#[case(&["run", "--rate-limit=Mapiq=1,Mapiq=2"], "names Mapiq twice")]
#[case(&["--rate-limit=20"], "VENDOR=N/min")]
#[case(&["--rate-limit=Mapiq=20/s"], "VENDOR=N/min")]
#[case(&["--rate-limit=Mapiq=-1"], "VENDOR=N/min")]
#[case(&["--rate-limit=Mapiq="], "VENDOR=N/min")]
#[case(&["--rate-limit=Mapiq=99999999999"], "at most 1000000")]
#[case(&["--rate-limit=Acme=1"], "Mapiq")]
#[case(&["--max-concurrent-requests=0"], "1..=1024")]
#[case(&["--metrics-bind-address=8080"], "--metrics-bind-address")]
#[case(&["--watch-namespace="], "1 to 63")]
#[case(&["--watch-namespace=Team_A"], "1 to 63")]
#[case(&["--operator-namespace=-a"], "1 to 63")]
#[case(&["--leader-elect=perhaps"], "--leader-elect")]
#[case(&["--log-format=xml"], "json, text")]
#[case(&["--log-level=loud"], "debug")]
fn wrong_usage_ends_with_2_and_a_hint(#[case] flags: &[&str], #[case] hint: &str) {
    let text = refused(flags);
    assert!(text.contains(hint), "{text}");
}

#[test]
fn the_flag_precedes_the_service_accounts_namespace_and_the_default() {
    let file = std::env::temp_dir().join(format!("vendor-token-operator-namespace-{}", std::process::id()));
    std::fs::write(&file, "tokens\n").unwrap();
    let (plain, missing) = (run(&[]), Path::new("/nonexistent/namespace"));
    assert_eq!(
        run(&["--operator-namespace=mine"]).operator_namespace_or(&file),
        "mine"
    );
    assert_eq!(plain.operator_namespace_or(&file), "tokens");
    std::fs::write(&file, "\n").unwrap();
    assert_eq!(plain.operator_namespace_or(&file), "vendor-token-operator");
    std::fs::remove_file(&file).unwrap();
    assert_eq!(plain.operator_namespace_or(missing), "vendor-token-operator");
}

#[test]
fn help_is_as_documented() {
    let help = parse(line(&["--help"])).map(drop).unwrap_err();
    assert_eq!(help.exit_code(), 0);
    insta::assert_snapshot!(help.to_string());
}
