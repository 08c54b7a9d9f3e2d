//! A homeserver that can be looked at but not changed, for dry runs.

use std::collections::BTreeMap;

use async_trait::async_trait;

use crate::{
    domain::{
        Account, AccountPatch, AccountSummary, Activity, Email, ExternalId, Failure, FailureClass, Lookup,
        Mxid, Peer,
    },
    ports::{Homeserver, HomeserverInfo, Written},
};

/// Passes on every question and refuses every write, so that a dry run cannot write even by mistake.
#[derive(Debug)]
pub struct ReadOnly<H>(pub H);

#[async_trait]
impl<H: Homeserver> Homeserver for ReadOnly<H> {
    async fn identify(&self) -> Result<HomeserverInfo, Failure> {
        self.0.identify().await
    }

    async fn list(&self) -> Result<BTreeMap<Mxid, AccountSummary>, Failure> {
        self.0.list().await
    }

    async fn get(&self, mxid: &Mxid) -> Lookup<Account> {
        self.0.get(mxid).await
    }

    async fn find_by_external_id(&self, id: &ExternalId) -> Lookup<Mxid> {
        self.0.find_by_external_id(id).await
    }

    async fn find_by_email(&self, email: &Email) -> Lookup<Mxid> {
        self.0.find_by_email(email).await
    }

    async fn activity(&self, mxid: &Mxid) -> Lookup<Activity> {
        self.0.activity(mxid).await
    }

    async fn put(&self, mxid: &Mxid, _patch: &AccountPatch) -> Result<Written, Failure> {
        Err(Failure::new(
            Peer::Synapse,
            FailureClass::Permanent,
            format!("writing the account {mxid}"),
            "this run only looks and writes nothing",
        ))
    }
}
