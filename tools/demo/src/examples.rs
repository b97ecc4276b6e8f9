//! The files of `deploy/examples/`: their objects, and the credentials in them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use k8s_openapi::api::core::v1::Secret;
use serde_json::Value;
use test_support::Error;
use vendor_simulator::{Credential, Vendor};
use vendor_token_operator::api::{VendorToken, VendorTokenSpec};

/// One file: a credentials Secret and a VendorToken.
#[derive(Debug)]
pub(crate) struct Example {
    pub(crate) yaml: String,
    pub(crate) vendor: Vendor,
    /// Of the VendorToken.
    pub(crate) name: String,
    /// Of the credentials Secret.
    pub(crate) credentials_secret: String,
    /// Of the Secret that the token is published in.
    pub(crate) target: String,
    /// The same credential for the simulator.
    pub(crate) credential: Credential,
}

/// Reads the five files, in the order of the vendors. Files without a VendorToken are passed over.
pub(crate) fn read(folder: &Path) -> Result<Vec<Example>, Error> {
    let entries = fs::read_dir(folder).map_err(Error::step(format!("list {}", folder.display())))?;
    let mut examples = Vec::new();
    for entry in entries {
        let path = entry
            .map_err(Error::step(format!("list {}", folder.display())))?
            .path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            let yaml = fs::read_to_string(&path).map_err(Error::step(format!("read {}", path.display())))?;
            let example = example(yaml)
                .map_err(|reason| Error::Other(format!("failed to read {}: {reason}", path.display())))?;
            examples.extend(example);
        }
    }
    examples.sort_by_key(|example: &Example| example.vendor);
    let vendors: Vec<Vendor> = examples.iter().map(|example| example.vendor).collect();
    if vendors == Vendor::ALL {
        Ok(examples)
    } else {
        Err(Error::Other(format!(
            "{} should hold one VendorToken for each of the five vendors",
            folder.display()
        )))
    }
}

fn example(yaml: String) -> Result<Option<Example>, String> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(&yaml).map_err(|error| error.to_string())?;
    let of_kind = |kind: &str| {
        documents
            .iter()
            .find(|document| document["kind"] == kind)
            .cloned()
    };
    let Some(token) = of_kind("VendorToken") else {
        return Ok(None);
    };
    let token: VendorToken = serde_json::from_value(token).map_err(|error| error.to_string())?;
    let secret = of_kind("Secret").ok_or("it holds no Secret")?;
    let secret: Secret = serde_json::from_value(secret).map_err(|error| error.to_string())?;
    let values = secret.string_data.unwrap_or_default();
    let name = token.metadata.name.ok_or("the VendorToken has no name")?;
    let vendor: Vendor = token
        .spec
        .vendor
        .as_str()
        .parse()
        .map_err(|error: vendor_simulator::UnknownVendor| error.to_string())?;
    Ok(Some(Example {
        credential: credential(vendor, &token.spec, &name, &values)?,
        vendor,
        credentials_secret: token.spec.credentials_secret_ref.name,
        target: token.spec.target.name.unwrap_or_else(|| name.clone()),
        name,
        yaml,
    }))
}

fn credential(
    vendor: Vendor,
    spec: &VendorTokenSpec,
    name: &str,
    values: &BTreeMap<String, String>,
) -> Result<Credential, String> {
    let value = |key: &str| {
        let value = values.get(key).cloned();
        value.ok_or_else(|| format!("the Secret has no key {key}"))
    };
    Ok(match vendor {
        Vendor::SixMap | Vendor::Mapiq => Credential::new(value("client-id")?, value("client-secret")?),
        Vendor::CheckmarxSca => {
            let tenant = spec
                .checkmarx_sca
                .as_ref()
                .map(|member| member.tenant.clone())
                .unwrap_or_default();
            Credential::new(value("username")?, value("password")?).tenant(tenant)
        }
        // Their requests carry a secret only; the name is for the ledger.
        Vendor::SixClicks => Credential::new(name, value("api-key")?),
        Vendor::Picus => Credential::new(name, value("refresh-token")?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_hold_a_credential_for_each_vendor() {
        let examples = read(&test_support::workspace().join("deploy/examples")).unwrap();
        let checkmarx = &examples[2];
        assert_eq!(checkmarx.vendor, Vendor::CheckmarxSca);
        assert!(checkmarx.credential.ledger_id().starts_with("acme/"));
        assert_eq!(examples[1].target, "sixclicks-token");
    }

    #[test]
    fn a_file_without_a_vendor_token_is_passed_over() {
        assert!(
            example("kind: Deployment\n---\nkind: Secret\n".to_owned())
                .unwrap()
                .is_none()
        );
    }
}
