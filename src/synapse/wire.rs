//! The shapes of Synapse's answers and of the body of a write (`docs/facts/synapse.md` sections 1 and 6).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};

use crate::{
    domain::{Account, AccountPatch, AccountSummary, ExternalId, Field, Mxid, ServerName, ThreePid},
    http::Answer,
};

/// Why an answer has another shape than this program knows. Never holds text of the answer, which can be personal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum ShapeProblem {
    /// No JSON, or none of the expected shape.
    #[error("the answer is not of the expected shape ({0})")]
    Json(String),
    /// An MXID of another server, or no MXID.
    #[error("the answer names an account that cannot be on this homeserver")]
    Mxid,
    /// The list is not whole.
    #[error("the list has {rows} accounts and counts {total}")]
    Total {
        /// How many accounts came.
        rows: usize,
        /// How many the server counts.
        total: u64,
    },
    /// An account stands in the list more than once.
    #[error("the list shows {0} more than once")]
    Twice(Mxid),
}

/// Reads a body as JSON. The error says where, but not what stood there.
pub(super) fn json<T: DeserializeOwned>(answer: &Answer) -> Result<T, ShapeProblem> {
    // Every answer is an object; serde would also read an array as one, its values in the order of the fields.
    if answer.body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[') {
        return Err(ShapeProblem::Json("an array in the place of an object".to_owned()));
    }
    serde_json::from_slice(&answer.body).map_err(|error| {
        let kind = match error.classify() {
            serde_json::error::Category::Data => "other fields or types",
            serde_json::error::Category::Eof => "it ends too early",
            serde_json::error::Category::Syntax | serde_json::error::Category::Io => "no JSON",
        };
        ShapeProblem::Json(format!("{kind} at line {} column {}", error.line(), error.column()))
    })
}

/// A Matrix error (Matrix client-server API, "Standard error response").
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(super) struct MatrixError {
    pub(super) errcode: String,
    #[serde(default)]
    pub(super) error: String,
    #[serde(default)]
    pub(super) retry_after_ms: Option<u64>,
}

impl MatrixError {
    /// The error in an answer, if it holds one.
    pub(super) fn of(answer: &Answer) -> Option<Self> {
        json(answer).ok()
    }
}

/// Whether an answer is a Matrix error with this code.
pub(super) fn errcode_is(answer: &Answer, errcode: &str) -> bool {
    MatrixError::of(answer).is_some_and(|error| error.errcode == errcode)
}

/// The answer to a look-up of an account.
#[derive(Deserialize)]
pub(super) struct UserId {
    pub(super) user_id: String,
}

/// The part of `GET /_synapse/admin/v2/users/<mxid>` that says when the account was last used.
#[derive(Deserialize)]
pub(super) struct LastSeen {
    /// In milliseconds since 1970.
    last_seen_ts: Option<i64>,
}

impl LastSeen {
    pub(super) fn moment(&self) -> Option<DateTime<Utc>> {
        self.last_seen_ts.and_then(DateTime::from_timestamp_millis)
    }
}

/// `GET /_synapse/admin/v1/server_version`
#[derive(Deserialize)]
pub(super) struct ServerVersion {
    pub(super) server_version: String,
}

/// `GET /_synapse/admin/v1/users/<mxid>/admin`
#[derive(Deserialize)]
pub(super) struct IsAdmin {
    pub(super) admin: bool,
}

/// What the list and the single account have in common.
#[derive(Deserialize)]
pub(super) struct Row {
    name: String,
    #[serde(deserialize_with = "present")]
    displayname: Option<String>,
    #[serde(deserialize_with = "flag")]
    deactivated: bool,
    #[serde(deserialize_with = "flag")]
    locked: bool,
    #[serde(deserialize_with = "flag")]
    admin: bool,
    #[serde(deserialize_with = "flag")]
    is_guest: bool,
    #[serde(deserialize_with = "present")]
    user_type: Option<String>,
}

impl Row {
    fn summary(self, server: &ServerName) -> Result<AccountSummary, ShapeProblem> {
        Ok(AccountSummary {
            mxid: Mxid::parse(&self.name, server).map_err(|_| ShapeProblem::Mxid)?,
            // Synapse keeps a name of blanks as an empty one, which shows as none.
            display_name: self.displayname.filter(|name| !name.is_empty()),
            deactivated: self.deactivated,
            locked: self.locked,
            admin: self.admin,
            guest: self.is_guest,
            user_type: self.user_type,
        })
    }
}

/// `GET /_synapse/admin/v2/users`
#[derive(Deserialize)]
pub(super) struct UserList {
    users: Vec<Row>,
    total: u64,
}

impl UserList {
    /// The accounts by MXID, if the list is whole. An account whose name is no MXID, left from rules of long ago,
    /// is passed over: no template can give that name.
    pub(super) fn accounts(
        self,
        server: &ServerName,
    ) -> Result<BTreeMap<Mxid, AccountSummary>, ShapeProblem> {
        if self.users.len() as u64 != self.total {
            return Err(ShapeProblem::Total { rows: self.users.len(), total: self.total });
        }
        let mut accounts = BTreeMap::new();
        for row in self.users {
            let name = row.name.clone();
            match row.summary(server) {
                Ok(summary) => {
                    if let Some(twice) = accounts.insert(summary.mxid.clone(), summary) {
                        return Err(ShapeProblem::Twice(twice.mxid));
                    }
                }
                Err(_) => tracing::debug!(name, "passing over an account whose name is no MXID"),
            }
        }
        Ok(accounts)
    }
}

/// `GET` and `PUT /_synapse/admin/v2/users/<mxid>`
#[derive(Deserialize)]
pub(super) struct User {
    #[serde(flatten)]
    row: Row,
    threepids: Vec<Pid>,
    external_ids: Vec<Id>,
    #[serde(deserialize_with = "present")]
    appservice_id: Option<String>,
    creation_ts: i64,
}

impl User {
    pub(super) fn account(self, server: &ServerName) -> Result<Account, ShapeProblem> {
        Ok(Account {
            summary: self.row.summary(server)?,
            threepids: self
                .threepids
                .into_iter()
                .map(|Pid { medium, address }| ThreePid { medium, address })
                .collect(),
            external_ids: self
                .external_ids
                .into_iter()
                .map(|Id { auth_provider, external_id }| ExternalId { auth_provider, external_id })
                .collect(),
            appservice: self.appservice_id,
            created_at: self.creation_ts,
        })
    }
}

#[derive(Deserialize, Serialize)]
struct Pid {
    medium: String,
    address: String,
}

#[derive(Deserialize, Serialize)]
struct Id {
    auth_provider: String,
    external_id: String,
}

/// The body of a write: what is not to be changed is not in it.
#[derive(Serialize)]
pub(super) struct Body {
    #[serde(skip_serializing_if = "Option::is_none")]
    displayname: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    threepids: Option<Vec<Pid>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    external_ids: Option<Vec<Id>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    locked: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deactivated: Option<bool>,
}

/// Puts a patch into the words of the admin API.
pub(super) fn body(patch: &AccountPatch) -> Body {
    let threepids = |set: &BTreeSet<ThreePid>| {
        set.iter().cloned().map(|ThreePid { medium, address }| Pid { medium, address }).collect()
    };
    let external_ids = |set: &BTreeSet<ExternalId>| {
        // Synapse gives them to a new account one by one in this order, and stops at one that somebody else has.
        // With the marker first, an account that was left half made shows whose it is.
        let (markers, others): (Vec<_>, Vec<_>) = set.iter().cloned().partition(ExternalId::is_marker);
        markers
            .into_iter()
            .chain(others)
            .map(|ExternalId { auth_provider, external_id }| Id { auth_provider, external_id })
            .collect()
    };
    Body {
        displayname: match &patch.display_name {
            Field::Keep => None,
            Field::Set(name) => Some(name.clone()),
            // Null would be refused on an account that exists; an empty text takes the name away.
            Field::Unset => Some(String::new()),
        },
        threepids: patch.threepids.as_ref().map(threepids),
        external_ids: patch.external_ids.as_ref().map(external_ids),
        locked: patch.locked,
        deactivated: patch.deactivated,
    }
}

/// Reads a value that may be null and must be there: without this, serde takes a missing key for null, and an account of
/// a bridge would look like that of a person.
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    Option::deserialize(deserializer)
}

/// Reads a truth value, which older versions on SQLite write as 0 or 1.
fn flag<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    struct Flag;
    impl serde::de::Visitor<'_> for Flag {
        type Value = bool;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("true, false, 0 or 1")
        }

        fn visit_bool<E>(self, value: bool) -> Result<bool, E> {
            Ok(value)
        }

        fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<bool, E> {
            match value {
                0 => Ok(false),
                1 => Ok(true),
                _ => Err(E::custom("a truth value is neither 0 nor 1")),
            }
        }
    }
    deserializer.deserialize_any(Flag)
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, StatusCode};
    use proptest::prelude::*;

    use super::*;
    use crate::domain::MARKER_PROVIDER;

    fn server() -> ServerName {
        ServerName::try_from("sync.test").unwrap()
    }

    fn answer(body: impl Into<Vec<u8>>) -> Answer {
        Answer { status: StatusCode::OK, headers: HeaderMap::new(), body: body.into().into() }
    }

    fn row(name: &str) -> serde_json::Value {
        serde_json::json!({
            "name": name, "displayname": null, "deactivated": 0, "locked": false, "admin": 1,
            "is_guest": false, "user_type": null, "creation_ts": 1_700_000_000_000_i64,
        })
    }

    fn list(rows: &[&str], total: u64) -> Result<BTreeMap<Mxid, AccountSummary>, ShapeProblem> {
        let rows: Vec<_> = rows.iter().map(|name| row(name)).collect();
        let body = serde_json::json!({ "users": rows, "total": total }).to_string();
        json::<UserList>(&answer(body)).unwrap().accounts(&server())
    }

    #[test]
    fn a_list_counts_as_whole_only_if_it_has_as_many_rows_as_it_says() {
        assert_eq!(list(&["@a:sync.test", "@b:sync.test"], 2).unwrap().len(), 2);
        assert_eq!(list(&["@a:sync.test"], 2), Err(ShapeProblem::Total { rows: 1, total: 2 }));
        assert!(matches!(list(&["@a:sync.test", "@a:sync.test"], 2), Err(ShapeProblem::Twice(_))));
    }

    #[test]
    fn an_account_whose_name_is_no_mxid_is_passed_over() {
        let accounts = list(&["@a:sync.test", "old", "@b:elsewhere.test"], 3).unwrap();
        assert_eq!(accounts.keys().map(Mxid::as_str).collect::<Vec<_>>(), ["@a:sync.test"]);
        assert!(accounts.values().all(|account| account.admin && !account.deactivated));
    }

    #[test]
    fn a_body_holds_only_what_is_to_change() {
        let text = |patch: &AccountPatch| serde_json::to_string(&body(patch)).unwrap();
        assert_eq!(text(&AccountPatch::default()), "{}");
        let unset = AccountPatch { display_name: Field::Unset, ..AccountPatch::default() };
        assert_eq!(text(&unset), r#"{"displayname":""}"#);
        let emptied = AccountPatch {
            threepids: Some(BTreeSet::new()),
            external_ids: Some(BTreeSet::new()),
            ..AccountPatch::default()
        };
        assert_eq!(text(&emptied), r#"{"threepids":[],"external_ids":[]}"#);
    }

    #[test]
    fn the_ownership_marker_is_listed_first() {
        let id = |auth_provider: &str| ExternalId {
            auth_provider: auth_provider.to_owned(),
            external_id: "1".to_owned(),
        };
        let patch = AccountPatch {
            external_ids: Some(BTreeSet::from([id("cas"), id(MARKER_PROVIDER), id("oidc-Defguard")])),
            ..AccountPatch::default()
        };
        let providers: Vec<_> =
            body(&patch).external_ids.into_iter().flatten().map(|id| id.auth_provider).collect();
        assert_eq!(providers, [MARKER_PROVIDER, "cas", "oidc-Defguard"]);
    }

    #[test]
    fn a_shape_problem_does_not_repeat_the_answer() {
        let Err(problem) =
            json::<User>(&answer(r#"{"name":"@secret:sync.test","displayname":"Secret Name"}"#))
        else {
            panic!("read an account out of half an account")
        };
        assert!(!problem.to_string().to_lowercase().contains("secret"), "{problem}");
    }

    proptest! {
        #[test]
        fn no_bytes_can_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let answer = answer(bytes);
            let _ = MatrixError::of(&answer);
            let _ = json::<User>(&answer).map(|user| user.account(&server()));
            let _ = json::<UserList>(&answer).map(|list| list.accounts(&server()));
            let _ = json::<UserId>(&answer);
        }

        #[test]
        fn no_account_of_nearly_the_right_shape_can_make_the_reader_panic(
            name in ".{0,20}", displayname in proptest::option::of(".{0,20}"), flag in any::<u8>(),
            medium in ".{0,5}", total in any::<u64>(), created in any::<i64>(),
        ) {
            let mut user = row(&name);
            user["displayname"] = displayname.into();
            user["locked"] = flag.into();
            user["creation_ts"] = created.into();
            let list = serde_json::json!({ "users": [user.clone()], "total": total }).to_string();
            let _ = json::<UserList>(&answer(list)).map(|list| list.accounts(&server()));
            user["threepids"] = serde_json::json!([{ "medium": medium, "address": name }]);
            user["external_ids"] = serde_json::json!([{ "auth_provider": medium, "external_id": name }]);
            user["appservice_id"] = serde_json::Value::Null;
            let read = json::<User>(&answer(user.to_string())).and_then(|user| user.account(&server()));
            prop_assert_eq!(read.is_ok(), flag < 2 && Mxid::parse(&name, &server()).is_ok());
        }
    }
}
