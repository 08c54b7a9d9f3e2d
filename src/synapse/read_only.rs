//! A homeserver that can be looked at but not changed, for dry runs.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::{
    domain::{
        Account, AccountPatch, AccountSummary, Email, ExternalId, Failure, FailureClass, Instance, Lookup,
        Mxid, Peer, ServiceRecord, Session,
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

    async fn last_seen(&self, mxid: &Mxid) -> Lookup<Option<DateTime<Utc>>> {
        self.0.last_seen(mxid).await
    }

    async fn put(&self, mxid: &Mxid, _patch: &AccountPatch) -> Result<Written, Failure> {
        Err(refused(format!("writing the account {mxid}")))
    }

    async fn sessions(&self, mxid: &Mxid) -> Result<BTreeSet<Session>, Failure> {
        self.0.sessions(mxid).await
    }

    async fn end_sessions(&self, mxid: &Mxid, _devices: &BTreeSet<Session>) -> Result<(), Failure> {
        Err(refused(format!("ending the sessions of {mxid}")))
    }

    async fn email_pushers(&self, mxid: &Mxid) -> Result<BTreeSet<String>, Failure> {
        self.0.email_pushers(mxid).await
    }

    async fn rooms(&self, mxid: &Mxid) -> Result<BTreeSet<String>, Failure> {
        self.0.rooms(mxid).await
    }

    async fn service_record(
        &self,
        own: &Mxid,
        instance: &Instance,
    ) -> Result<Option<ServiceRecord>, Failure> {
        self.0.service_record(own, instance).await
    }

    async fn keep_service_record(
        &self,
        _own: &Mxid,
        _instance: &Instance,
        _record: &ServiceRecord,
    ) -> Result<(), Failure> {
        Err(refused("writing the record in our own account data".to_owned()))
    }
}

fn refused(what: String) -> Failure {
    Failure::new(Peer::Synapse, FailureClass::Permanent, what, "this run only looks and writes nothing")
}
