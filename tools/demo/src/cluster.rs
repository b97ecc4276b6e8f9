//! The cluster that the demo uses: a control plane of its own, or the one of `DEMO_KUBECONFIG`.

use std::fmt::Debug;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, ListParams, ObjectMeta, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, ResourceExt};
use serde::de::DeserializeOwned;
use test_support::{
    ControlPlane, Error, OPERATOR_NAMESPACE, OPERATOR_SERVICE_ACCOUNT, Options, install_operator, wait_for,
    with_causes, workspace,
};
use vendor_token_operator::api::VendorToken;

use crate::screen::Screen;

/// The namespace of the demo's Secrets and VendorTokens.
pub(crate) const NAMESPACE: &str = "vendortoken-demo";
const DEFINITION: &str = "vendortokens.vendortoken.io";
/// The label of objects that the demo made and may remove.
const OURS: (&str, &str) = ("app.kubernetes.io/managed-by", "vendortoken-demo");
const PATIENCE: Duration = Duration::from_secs(60);

/// The cluster.
pub(crate) enum Cluster {
    /// Started by the demo.
    Local(Box<ControlPlane>),
    /// Somebody's, with the objects that the demo made there.
    Existing(Existing),
}

/// A cluster that was there before us.
pub(crate) struct Existing {
    client: Client,
    kubeconfig: PathBuf,
}

impl Cluster {
    /// Starts a control plane: etcd and kube-apiserver. The demo deletes no owner, so it needs no garbage collection.
    pub(crate) async fn local() -> Result<Self, Error> {
        let plane = ControlPlane::start(Options::default()).await?;
        install_operator(&plane.admin()?).await?;
        make_namespace(&plane.admin()?).await?;
        Ok(Self::Local(Box::new(plane)))
    }

    /// Connects to the cluster of a kubeconfig, and changes nothing yet.
    pub(crate) async fn existing(path: &Path, screen: &Screen) -> Result<Self, Error> {
        let failed = |reason: String| {
            Error::Other(format!(
                "failed to use the kubeconfig {} (DEMO_KUBECONFIG): {reason}",
                path.display()
            ))
        };
        let kubeconfig = path.canonicalize().map_err(|error| failed(error.to_string()))?;
        let read = Kubeconfig::read_from(&kubeconfig).map_err(|error| failed(with_causes(&error)))?;
        let context = read.current_context.clone().unwrap_or_default();
        let mut config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default())
            .await
            .map_err(|error| failed(with_causes(&error)))?;
        config.default_retry = false;
        let server = config.cluster_url.to_string();
        let client = Client::try_from(config).map_err(|error| failed(with_causes(&error)))?;
        let version = tokio::time::timeout(Duration::from_secs(15), client.apiserver_version())
            .await
            .map_err(|_| failed(format!("{server} did not answer within 15 s")))?
            .map_err(Error::step(format!(
                "reach {server}, the cluster of DEMO_KUBECONFIG"
            )))?;
        screen.say(&format!(
            "This uses the cluster {server} (context '{context}', Kubernetes {}). There it makes the namespace\n\
             {NAMESPACE} and, unless it is installed, the definition {DEFINITION}; at the end it removes what it made.\n\
             Nothing else is touched: the operator runs on this machine with the rights of that kubeconfig, in that\n\
             namespace only, and the simulated vendors listen on 127.0.0.1.\n",
            version.git_version
        ));
        Ok(Self::Existing(Existing { client, kubeconfig }))
    }

    /// Makes the namespace, and the CustomResourceDefinition where it is missing.
    pub(crate) async fn prepare(&self) -> Result<(), Error> {
        match self {
            Self::Local(_) => Ok(()),
            Self::Existing(existing) => existing.prepare().await,
        }
    }

    /// A client with the administrator's rights.
    pub(crate) fn client(&self) -> Result<Client, Error> {
        match self {
            Self::Local(plane) => Ok(plane.admin()?),
            Self::Existing(existing) => Ok(existing.client.clone()),
        }
    }

    /// The kubeconfig for people.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        match self {
            Self::Local(plane) => plane.admin_kubeconfig(),
            Self::Existing(existing) => existing.kubeconfig.clone(),
        }
    }

    /// The kubeconfig for the operator, and the arguments that go with it.
    pub(crate) async fn for_operator(&self) -> Result<(PathBuf, Vec<String>), Error> {
        match self {
            Self::Local(plane) => {
                let kubeconfig = plane
                    .kubeconfig_for_service_account(OPERATOR_NAMESPACE, OPERATOR_SERVICE_ACCOUNT)
                    .await?;
                Ok((kubeconfig, Vec::new()))
            }
            Self::Existing(existing) => Ok((
                existing.kubeconfig.clone(),
                vec![
                    format!("--watch-namespace={NAMESPACE}"),
                    format!("--operator-namespace={NAMESPACE}"),
                ],
            )),
        }
    }

    /// The cluster was started by the demo.
    pub(crate) fn is_local(&self) -> bool {
        matches!(self, Self::Local(_))
    }

    /// Stops it, or removes the objects that the demo made there.
    pub(crate) async fn close(self) -> Result<(), Error> {
        match self {
            Self::Local(plane) => {
                plane.stop().await;
                Ok(())
            }
            Self::Existing(existing) => existing.clean_up().await,
        }
    }
}

impl Existing {
    async fn prepare(&self) -> Result<(), Error> {
        let definitions = Api::<CustomResourceDefinition>::all(self.client.clone());
        let present = definitions
            .get_opt(DEFINITION)
            .await
            .map_err(Error::step(format!("look for the definition {DEFINITION}")))?;
        match present {
            Some(definition) if is_ours(&definition) => {}
            Some(_) => self.refuse_beside_an_operator().await?,
            None => {
                definitions
                    .create(&PostParams::default(), &definition()?)
                    .await
                    .map_err(Error::step(format!("create the definition {DEFINITION}")))?;
            }
        }
        wait_for("the definition established", PATIENCE, || async {
            let definition = definitions
                .get(DEFINITION)
                .await
                .map_err(|error| error.to_string())?;
            let established = definition
                .status
                .and_then(|status| status.conditions)
                .unwrap_or_default()
                .iter()
                .any(|condition| condition.type_ == "Established" && condition.status == "True");
            established
                .then_some(())
                .ok_or_else(|| "not established yet".to_owned())
        })
        .await?;
        make_namespace(&self.client).await
    }

    /// An operator that works in this cluster would take the demo's VendorTokens too, and send their credentials to the
    /// vendors' real endpoints.
    async fn refuse_beside_an_operator(&self) -> Result<(), Error> {
        let labelled = ListParams::default().labels("app.kubernetes.io/name=vendor-token-operator");
        let deployments = Api::<Deployment>::all(self.client.clone())
            .list(&labelled)
            .await
            .map_err(Error::step(
                "see whether an operator runs in this cluster (list Deployments)",
            ))?;
        let deployed = deployments
            .items
            .into_iter()
            .find(|deployment| deployment.spec.as_ref().and_then(|spec| spec.replicas) != Some(0))
            .map(|deployment| {
                format!(
                    "the Deployment {}/{}",
                    deployment.namespace().unwrap_or_default(),
                    deployment.name_any()
                )
            });
        let leases = Api::<Lease>::all(self.client.clone())
            .list(&ListParams::default().fields("metadata.name=vendor-token-operator"))
            .await
            .map_err(Error::step(
                "see whether an operator runs in this cluster (list Leases)",
            ))?;
        let held = leases.items.into_iter().find_map(|lease| {
            let renewed = lease.spec.as_ref()?.renew_time.as_ref()?.0;
            let recent = Timestamp::now().duration_since(renewed).as_secs() < 60;
            recent.then(|| {
                format!(
                    "whoever holds the Lease {}/{}",
                    lease.namespace().unwrap_or_default(),
                    lease.name_any()
                )
            })
        });
        match deployed.or(held) {
            None => Ok(()),
            Some(operator) => Err(Error::Other(format!(
                "an operator works in this cluster already ({operator}): it would take the demo's VendorTokens too, and \
                 send their credentials to the vendors; use another cluster, or scale it to 0 for the demo"
            ))),
        }
    }

    /// Removes what carries our label, so also what an earlier demo has left.
    async fn clean_up(self) -> Result<(), Error> {
        let namespaces = Api::<Namespace>::all(self.client.clone());
        let namespace = namespaces
            .get_opt(NAMESPACE)
            .await
            .map_err(Error::step(format!("look for the namespace {NAMESPACE}")))?;
        if namespace.is_some_and(|namespace| is_ours(&namespace)) {
            remove_namespace(&self.client).await?;
        }
        let definitions = Api::<CustomResourceDefinition>::all(self.client.clone());
        let definition = definitions
            .get_opt(DEFINITION)
            .await
            .map_err(Error::step(format!("look for the definition {DEFINITION}")))?;
        if !definition.is_some_and(|definition| is_ours(&definition)) {
            return Ok(());
        }
        // Whoever has made VendorTokens meanwhile would lose them with the definition.
        let in_use = Api::<VendorToken>::all(self.client.clone())
            .list_metadata(&ListParams::default().limit(1))
            .await
            .map_err(Error::step("see whether there are other VendorTokens"))?;
        if !in_use.items.is_empty() {
            return Err(Error::Other(format!(
                "the definition {DEFINITION} was left, as there are VendorTokens that are not the demo's"
            )));
        }
        definitions
            .delete(DEFINITION, &DeleteParams::default())
            .await
            .map_err(Error::step(format!("remove the definition {DEFINITION}")))?;
        gone(&definitions, DEFINITION).await
    }
}

fn is_ours(object: &impl ResourceExt) -> bool {
    object.labels().get(OURS.0).is_some_and(|value| value == OURS.1)
}

fn definition() -> Result<CustomResourceDefinition, Error> {
    let path = workspace().join("crds").join("vendortokens.yaml");
    let text = fs::read_to_string(&path).map_err(Error::step(format!("read {}", path.display())))?;
    let mut definition: CustomResourceDefinition =
        serde_saphyr::from_str(&text).map_err(Error::step(format!("read {}", path.display())))?;
    definition
        .labels_mut()
        .insert(OURS.0.to_owned(), OURS.1.to_owned());
    Ok(definition)
}

/// Makes the demo's namespace, anew when an interrupted demo has left it.
async fn make_namespace(client: &Client) -> Result<(), Error> {
    let namespaces = Api::<Namespace>::all(client.clone());
    let present = namespaces
        .get_opt(NAMESPACE)
        .await
        .map_err(Error::step(format!("look for the namespace {NAMESPACE}")))?;
    match present {
        Some(namespace) if is_ours(&namespace) => remove_namespace(client).await?,
        Some(_) => {
            return Err(Error::Other(format!(
                "the namespace {NAMESPACE} is there already, and not from a demo: remove it, or use another cluster"
            )));
        }
        None => {}
    }
    let namespace = Namespace {
        metadata: ObjectMeta {
            name: Some(NAMESPACE.to_owned()),
            labels: Some([(OURS.0.to_owned(), OURS.1.to_owned())].into()),
            ..Default::default()
        },
        ..Default::default()
    };
    namespaces
        .create(&PostParams::default(), &namespace)
        .await
        .map_err(Error::step(format!("create the namespace {NAMESPACE}")))?;
    Ok(())
}

async fn remove_namespace(client: &Client) -> Result<(), Error> {
    let namespaces = Api::<Namespace>::all(client.clone());
    namespaces
        .delete(NAMESPACE, &DeleteParams::default())
        .await
        .map_err(Error::step(format!("remove the namespace {NAMESPACE}")))?;
    gone(&namespaces, NAMESPACE).await
}

/// Waits until an object that was deleted is no more.
async fn gone<K>(api: &Api<K>, name: &str) -> Result<(), Error>
where
    K: Clone + DeserializeOwned + Debug,
{
    wait_for(&format!("the end of {name}"), PATIENCE, || async {
        match api.get_opt(name).await {
            Ok(None) => Ok(()),
            Ok(Some(_)) => Err("it is still there".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    })
    .await?;
    Ok(())
}
