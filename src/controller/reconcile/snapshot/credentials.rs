//! The credentials in a [`Snapshot`]: the grant that they make, remembered or read anew, or the reason why they make none.

use std::sync::Arc;

use super::Snapshot;
use crate::api::names::Reason;
use crate::controller::cluster::remembered::{GrantIdentity, KnownCredentials, number_of};
use crate::controller::cluster::secrets::Lookup;
use crate::controller::context::Context;
use crate::controller::reconcile::credentials;
use crate::controller::reconcile::error::{Error, read_problem};
use crate::policy::{Credentials, Problem};

impl Snapshot {
    /// Takes what is remembered of the present versions of the credentials.
    pub(super) fn look_at_credentials(&mut self, context: &Context) {
        let Ok(checked) = &self.validated else { return };
        let mut versions = Vec::new();
        let names = [
            Some(checked.credentials_secret.clone()),
            checked.certificate_secret.clone(),
        ];
        for name in names.into_iter().flatten() {
            match context.secrets.get(&self.object.namespace, &name) {
                Lookup::Found(record) => versions.push(record.version()),
                Lookup::Absent => {
                    self.unusable(context, credentials::not_found(&name, true));
                    return;
                }
                Lookup::Unknown => return,
            }
        }
        let certificate = context.remembered.certificate(&self.object);
        if let (Some(present), Some(known)) = (versions.get(1), certificate)
            && *present == known.version
            && let Err(problem) = known.found
        {
            return self.unusable(context, problem);
        }
        let version = versions.join("+");
        let known = context.remembered.credentials(&self.object);
        match known.filter(|known| *known.version == *version && known.known == number_of(&self.known)) {
            Some(known) => match known.found {
                Ok(found) => self.found(found, version),
                Err(problem) => self.unusable(context, problem),
            },
            None => {
                self.credentials = Credentials::Unread {
                    version: Some(version),
                }
            }
        }
    }

    /// Reads the credentials Secret, and the client certificate's.
    pub(crate) async fn read_credentials(&mut self, context: &Arc<Context>) -> Result<(), Error> {
        let Ok(checked) = &self.validated else {
            return Ok(());
        };
        let namespace = &self.object.namespace;
        match credentials::read(context, namespace, checked).await {
            Ok(read) => {
                let (endpoint, grant) = (&checked.endpoint, &checked.grant);
                let found = GrantIdentity {
                    fingerprint: self.key.fingerprint(endpoint, grant, &read.values),
                    login: self.key.login(endpoint, grant, &read.values),
                };
                let known = KnownCredentials {
                    version: read.version.as_str().into(),
                    known: number_of(&self.known),
                    found: Ok(found),
                };
                context.remembered.set_credentials(&self.object, Some(known));
                self.values = Some(read.values);
                self.found(found, read.version);
                Ok(())
            }
            Err(credentials::ReadError::Unusable(problem)) => {
                self.unusable(context, problem);
                Ok(())
            }
            Err(credentials::ReadError::Api { name, source }) => match read_problem(&source, &name) {
                Some(problem) => {
                    self.unusable(context, problem);
                    Ok(())
                }
                None => Err(Error::ReadSecret {
                    namespace: namespace.clone(),
                    name,
                    source,
                }),
            },
        }
    }

    /// Takes the grant that the credentials of this version make.
    pub(super) fn found(&mut self, found: GrantIdentity, version: String) {
        let (namespace, name) = (&self.object.namespace, &self.object.name);
        let inputs = self.key.inputs(namespace, name, &self.known, found.fingerprint);
        self.credentials = Credentials::Known { inputs };
        self.fingerprint = Some(found.fingerprint);
        self.login = found.login;
        self.credentials_version = Some(version);
    }

    /// The credentials cannot be used, so nothing may be published from memory either.
    fn unusable(&mut self, context: &Context, problem: Problem) {
        if problem.reason == Reason::CredentialsNotFound {
            context.remembered.set_credentials(&self.object, None);
        }
        context.grants.release(&self.object);
        self.fingerprint = None;
        self.values = None;
        self.credentials = Credentials::Unusable(problem);
    }
}
