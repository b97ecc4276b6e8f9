//! Each way to install the operator, with exactly the rights of its manifests: the same scenarios pass, and RBAC refuses
//! no request.

use std::path::Path;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use test_support::{AuditEntries, ControlPlane, Mark, Options, wait_for};
use vendor_token_operator::arguments::{self, Invocation, RunArguments};
use vendor_token_operator::controller::FINGERPRINT_KEY_SECRET;

use crate::scenarios;
use crate::support::OWNERS_ARE_GUARDED;
use crate::world::installation::{POLL, may_read};
use crate::world::{OPERATOR, Operator, PATIENCE, World};

/// The namespace that the overlays serve, and whose place the scenarios' namespaces take.
const SERVED: &str = "appsec";

/// An installation on a control plane of its own.
struct Installed {
    plane: &'static ControlPlane,
    worlds: [World; scenarios::COUNT],
    operator: Operator,
    /// It has Roles only.
    roles_only: bool,
    /// Its Deployment says so.
    secret_watch: bool,
    mark: Mark,
}

impl Installed {
    /// Installs `folder` as its users do, and starts an operator with the arguments of its Deployment.
    async fn from(folder: &str) -> Self {
        Self::with(folder, |_| {}).await
    }

    /// As [`Self::from`], with arguments that are not those of the manifests.
    async fn with(folder: &str, change: fn(&mut RunArguments)) -> Self {
        // It ends with this process.
        let options = Options {
            // As in OpenShift: whatever the operator does asks for no right to delete.
            api_server_arguments: vec![OWNERS_ARE_GUARDED.to_owned()],
            ..Default::default()
        };
        let plane: &'static ControlPlane = Box::leak(Box::new(ControlPlane::start(options).await.unwrap()));
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let rendered = plane.kustomize(&root.join(folder)).await.unwrap();
        let manifests: Vec<&str> = rendered.split("\n---\n").collect();
        let is_served = |manifest: &str| manifest.contains(&format!("\n  namespace: {SERVED}\n"));
        let roles_only = manifests.iter().any(|manifest| is_served(manifest));
        if roles_only {
            // What an administrator does.
            plane.apply_kustomization(&root.join("crds")).await.unwrap();
            let namespaces = [OPERATOR, SERVED, "payments"].map(|name| {
                format!("---\n{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}}}}}\n")
            });
            plane.apply_yaml("default", &namespaces.concat()).await.unwrap();
        }
        plane.apply_yaml("default", &rendered).await.unwrap();

        let mut worlds = vec![World::on(plane, "scenario", Default::default()).await];
        while worlds.len() < scenarios::COUNT {
            let namespace = plane.namespace("scenario").await.unwrap();
            worlds.push(worlds[0].beside(namespace));
        }
        for world in &worlds {
            for manifest in manifests.iter().filter(|manifest| is_served(manifest)) {
                let manifest = manifest.replace(SERVED, &world.namespace);
                plane.apply_yaml(&world.namespace, &manifest).await.unwrap();
            }
            may_read(plane, &world.namespace, "mapiq-token").await;
        }
        may_read(plane, OPERATOR, FINGERPRINT_KEY_SECRET).await;

        let mut arguments = arguments_of_the_deployment(plane).await;
        let secret_watch = arguments.secret_watch;
        change(&mut arguments);
        assert_eq!(
            arguments.watch_namespaces.iter().any(|name| name == SERVED),
            roles_only
        );
        if roles_only {
            arguments.watch_namespaces = worlds.iter().map(|world| world.namespace.clone()).collect();
        }
        let mark = plane.audit().mark().await.unwrap();
        let operator = worlds[0]
            .operator_with(|settings| {
                settings.watch_namespaces = arguments.watch_namespaces;
                settings.secret_watch = arguments.secret_watch;
                if !secret_watch {
                    settings.longest_wait = POLL;
                }
            })
            .await;
        Self {
            plane,
            worlds: worlds.try_into().ok().unwrap(),
            operator,
            roles_only,
            secret_watch,
            mark,
        }
    }

    /// Runs the scenarios, and gives what the operator has asked of the API server.
    async fn passes_the_scenarios(&self) -> AuditEntries {
        let seen_within = if self.secret_watch { "seconds" } else { "5 minutes" };
        scenarios::all(&self.worlds, &self.operator, seen_within).await;
        // Where its own namespace is not watched, it looks after 5 minutes.
        if !(self.roles_only && self.secret_watch) {
            self.keeps_its_key().await;
        }
        let violations = self.worlds[0].simulator.violations();
        assert_eq!(violations, []);
        let asked = self.plane.audit().since(self.mark).await.unwrap();
        let asked = asked.of_service_account(OPERATOR, OPERATOR);
        assert!(asked.len() > 100, "the audit log has little of it: {asked:?}");
        asked
    }

    async fn keeps_its_key(&self) {
        let secrets: Api<Secret> = Api::namespaced(self.worlds[0].admin.clone(), OPERATOR);
        let key = secrets.get(FINGERPRINT_KEY_SECRET).await.unwrap().data;
        secrets
            .delete(FINGERPRINT_KEY_SECRET, &Default::default())
            .await
            .unwrap();
        wait_for("the key to be made again", PATIENCE, || async {
            match secrets.get_opt(FINGERPRINT_KEY_SECRET).await.unwrap() {
                Some(found) if found.data == key => Ok(()),
                Some(_) => Err("another key"),
                None => Err("no key"),
            }
        })
        .await
        .unwrap();
    }
}

/// The arguments that the operator's container is started with.
async fn arguments_of_the_deployment(plane: &ControlPlane) -> RunArguments {
    let deployments: Api<Deployment> = Api::namespaced(plane.admin().unwrap(), OPERATOR);
    let deployment = deployments.get(OPERATOR).await.unwrap();
    let containers = deployment.spec.unwrap().template.spec.unwrap().containers;
    let arguments = containers[0].args.clone().unwrap();
    match arguments::parse([OPERATOR.to_owned()].into_iter().chain(arguments)).unwrap() {
        Invocation::Run(arguments) => *arguments,
        other => panic!("{other:?}"),
    }
}

fn refused(asked: &AuditEntries) -> AuditEntries {
    asked.matching(|entry| entry.code == 403)
}

/// What is asked about Secrets, by verb.
fn verbs_on_secrets(asked: &AuditEntries) -> Vec<String> {
    let mut verbs: Vec<_> = asked
        .iter()
        .filter(|entry| entry.resource == "secrets")
        .map(|entry| entry.verb.clone())
        .collect();
    verbs.sort_unstable();
    verbs.dedup();
    verbs
}

#[tokio::test(flavor = "multi_thread")]
async fn in_all_namespaces_no_request_is_refused() {
    let installed = Installed::from("deploy").await;
    assert!(!installed.roles_only && installed.secret_watch);
    let asked = installed.passes_the_scenarios().await;
    assert_eq!(*refused(&asked), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_roles_only_no_request_is_refused() {
    let installed = Installed::from("deploy/overlays/namespaces").await;
    assert!(installed.roles_only && installed.secret_watch);
    let asked = installed.passes_the_scenarios().await;
    assert_eq!(*refused(&asked), []);
    let everywhere = asked.matching(|entry| entry.namespace.is_empty());
    assert_eq!(*everywhere, [], "asked of the whole cluster");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_secret_watch_no_request_is_refused() {
    let installed = Installed::from("deploy/overlays/no-secret-watch").await;
    assert!(!installed.roles_only && !installed.secret_watch);
    let asked = installed.passes_the_scenarios().await;
    assert_eq!(*refused(&asked), []);
    assert_eq!(verbs_on_secrets(&asked), ["get", "patch"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_fewest_rights_no_request_is_refused() {
    let installed = Installed::from("deploy/overlays/namespaces-no-secret-watch").await;
    assert!(installed.roles_only && !installed.secret_watch);
    let asked = installed.passes_the_scenarios().await;
    assert_eq!(*refused(&asked), []);
    assert_eq!(verbs_on_secrets(&asked), ["get", "patch"]);
    let everywhere = asked.matching(|entry| entry.namespace.is_empty());
    assert_eq!(*everywhere, [], "asked of the whole cluster");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_rbac_refuses_the_secret_watch_nothing_else_is_refused() {
    let told_otherwise = |arguments: &mut RunArguments| arguments.secret_watch = true;
    let installed = Installed::with("deploy/overlays/no-secret-watch", told_otherwise).await;
    installed.operator.expect_refusals();
    let asked = installed.passes_the_scenarios().await;
    let (watch, other): (Vec<_>, Vec<_>) = refused(&asked)
        .into_iter()
        .partition(|entry| entry.resource == "secrets" && entry.name.is_empty() && entry.verb == "list");
    assert_eq!(other, []);
    let failures = installed.operator.metric("vendortoken_watch_failures_total");
    assert!(failures >= 1.0);
    assert!(
        watch.len() >= 2,
        "it is tried again, so a right that comes later is used: {watch:?}"
    );
}
