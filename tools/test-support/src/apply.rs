//! Applying manifests, server-side.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Client;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::discovery::{Scope, pinned_kind};
use serde_json::Value;

use crate::{Error, wait_for};

const FIELD_MANAGER: &str = "test-support";
/// A kind is served a moment after its definition is established.
const KIND_DEADLINE: Duration = Duration::from_secs(30);

/// What has to exist before objects of other kinds can be made.
const FIRST: [&str; 2] = ["Namespace", "CustomResourceDefinition"];

/// Applies all objects of a YAML text (one or more documents) server-side, as the field manager `test-support` and by
/// force: namespaces and CRDs first, and the rest when the CRDs are established. Namespaced objects that name no
/// namespace go into `namespace`.
///
/// # Errors
/// When the text is no manifest or the API server refuses an object; those before it are applied then.
pub async fn apply(client: Client, namespace: &str, yaml: &str) -> Result<(), Error> {
    apply_objects(&client, namespace, parse("the manifest", yaml)?).await
}

/// Applies what a kustomization's folder names in `resources`, as [`apply`] does; without kustomize, so only
/// `resources` has an effect, `images` and `labels` have none, and any other field is refused.
///
/// # Errors
/// As [`apply`], and when a file cannot be read or a field is not known here.
pub async fn apply_kustomization(client: Client, folder: &Path) -> Result<(), Error> {
    let mut objects = Vec::new();
    for (path, yaml) in read_kustomization(folder)? {
        objects.extend(parse(&path.display().to_string(), &yaml)?);
    }
    apply_objects(&client, "default", objects).await
}

/// The files (path, text) that a kustomization's folder names in `resources`, also through other folders.
///
/// # Errors
/// When a file cannot be read or the kustomization has a field that is not known here.
pub fn read_kustomization(folder: &Path) -> Result<Vec<(PathBuf, String)>, Error> {
    let path = folder.join("kustomization.yaml");
    let refused = |reason: String| Error::Manifest {
        what: path.display().to_string(),
        reason,
    };
    let value: Value = serde_saphyr::from_str(&read(&path)?).map_err(|error| refused(error.to_string()))?;
    let fields = value
        .as_object()
        .ok_or_else(|| refused("it is not a mapping".to_owned()))?;
    if let Some(other) = fields
        .keys()
        .find(|key| !["apiVersion", "kind", "resources", "images", "labels"].contains(&key.as_str()))
    {
        return Err(refused(format!("the field `{other}` is not supported here")));
    }
    let mut files = Vec::new();
    for resource in fields
        .get("resources")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
    {
        let resource = folder.join(resource);
        if resource.is_dir() {
            files.extend(read_kustomization(&resource)?);
        } else {
            let text = read(&resource)?;
            files.push((resource, text));
        }
    }
    Ok(files)
}

pub(crate) fn read(path: &Path) -> Result<String, Error> {
    fs::read_to_string(path).map_err(Error::io(format!("read {}", path.display())))
}

fn parse(what: &str, yaml: &str) -> Result<Vec<DynamicObject>, Error> {
    let refused = |reason: String| Error::Manifest {
        what: what.to_owned(),
        reason,
    };
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(yaml).map_err(|error| refused(error.to_string()))?;
    documents
        .into_iter()
        .filter(|document| !document.is_null())
        .map(|document| serde_json::from_value(document).map_err(|error| refused(error.to_string())))
        .collect()
}

async fn apply_objects(client: &Client, namespace: &str, objects: Vec<DynamicObject>) -> Result<(), Error> {
    let kind_of = |object: &DynamicObject| {
        object
            .types
            .as_ref()
            .map(|types| types.kind.clone())
            .unwrap_or_default()
    };
    let (first, rest): (Vec<_>, Vec<_>) = objects
        .into_iter()
        .partition(|object| FIRST.contains(&kind_of(object).as_str()));
    for object in &first {
        apply_object(client, namespace, object).await?;
    }
    let definitions = Api::<CustomResourceDefinition>::all(client.clone());
    for object in first
        .iter()
        .filter(|object| kind_of(object) == "CustomResourceDefinition")
    {
        let name = object.metadata.name.as_deref().unwrap_or_default();
        wait_for(
            &format!("the definition {name} established"),
            KIND_DEADLINE,
            || async {
                let definition = definitions.get(name).await.map_err(|error| error.to_string())?;
                let conditions = definition
                    .status
                    .and_then(|status| status.conditions)
                    .unwrap_or_default();
                if conditions
                    .iter()
                    .any(|condition| condition.type_ == "Established" && condition.status == "True")
                {
                    Ok(())
                } else {
                    let reasons: Vec<_> = conditions
                        .into_iter()
                        .map(|condition| {
                            format!(
                                "{}={} {}",
                                condition.type_,
                                condition.status,
                                condition.message.unwrap_or_default()
                            )
                        })
                        .collect();
                    Err(reasons.join("; "))
                }
            },
        )
        .await?;
    }
    for object in &rest {
        apply_object(client, namespace, object).await?;
    }
    Ok(())
}

async fn apply_object(client: &Client, namespace: &str, object: &DynamicObject) -> Result<(), Error> {
    let types = object.types.as_ref();
    let (Some(types), Some(name)) = (types, object.metadata.name.as_deref()) else {
        return Err(Error::Manifest {
            what: "the manifest".to_owned(),
            reason: "an object has no apiVersion, kind or metadata.name".to_owned(),
        });
    };
    let what = format!("{} {name}", types.kind);
    let kind = GroupVersionKind::try_from(types).map_err(|error| Error::Manifest {
        what: what.clone(),
        reason: error.to_string(),
    })?;
    let (resource, capabilities) =
        wait_for(&format!("the kind {} served", types.kind), KIND_DEADLINE, || {
            pinned_kind(client, &kind)
        })
        .await?;
    let api: Api<DynamicObject> = match capabilities.scope {
        Scope::Cluster => Api::all_with(client.clone(), &resource),
        Scope::Namespaced => {
            let namespace = object.metadata.namespace.as_deref().unwrap_or(namespace);
            Api::namespaced_with(client.clone(), namespace, &resource)
        }
    };
    api.patch(
        name,
        &PatchParams::apply(FIELD_MANAGER).force(),
        &Patch::Apply(object),
    )
    .await
    .map_err(Error::kube(format!("apply {what}")))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_documents_are_skipped() {
        let objects = parse(
            "a text",
            "---\n# nothing\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: { name: a }\n---\n",
        )
        .unwrap();
        assert_eq!(objects.len(), 1);
    }

    #[test]
    fn a_kustomization_with_a_field_that_would_be_ignored_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(
            folder.path().join("kustomization.yaml"),
            "resources: []\nnamePrefix: a-\n",
        )
        .unwrap();
        let error = read_kustomization(folder.path()).unwrap_err();
        assert!(error.to_string().contains("namePrefix"), "{error}");
    }

    #[test]
    fn a_kustomization_is_read_through_its_folders_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().join("base");
        fs::create_dir(&base).unwrap();
        fs::write(
            folder.path().join("kustomization.yaml"),
            "resources: [b.yaml, base]\n",
        )
        .unwrap();
        fs::write(base.join("kustomization.yaml"), "resources: [a.yaml]\n").unwrap();
        fs::write(folder.path().join("b.yaml"), "b: 1\n").unwrap();
        fs::write(base.join("a.yaml"), "a: 1\n").unwrap();
        let texts: Vec<_> = read_kustomization(folder.path())
            .unwrap()
            .into_iter()
            .map(|(_, text)| text)
            .collect();
        assert_eq!(texts, ["b: 1\n", "a: 1\n"]);
    }
}
