//! The claims that Defguard issues, and the variable `user` as templates see it (authlib's `UserInfo`,
//! `docs/facts/synapse.md` section 9).

use std::{collections::BTreeSet, sync::Arc};

use minijinja::{
    Value,
    value::{Enumerator, Object, ObjectRepr},
};
use serde_json::{Map, json};

use super::value::from_json;
use crate::domain::Person;

/// The OAuth scopes that Synapse asks Defguard for (`scopes` of the provider in homeserver.yaml).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scopes(BTreeSet<String>);

impl Scopes {
    /// The scopes as listed.
    pub fn new<S: Into<String>>(scopes: impl IntoIterator<Item = S>) -> Self {
        Self(scopes.into_iter().map(Into::into).collect())
    }

    /// Whether a scope is asked for.
    pub fn has(&self, scope: &str) -> bool {
        self.0.contains(scope)
    }
}

/// What Synapse asks for if its config says nothing: `openid` alone.
impl Default for Scopes {
    fn default() -> Self {
        Self::new(["openid"])
    }
}

/// The claims about a person in Defguard's id_token, in its order (`docs/facts/defguard.md` section 7). What belongs to
/// one login only (`exp`, `nonce` and their like) is not among them.
pub fn claims(person: &Person, scopes: &Scopes) -> Map<String, serde_json::Value> {
    let mut claims = Map::new();
    let mut put = |name: &str, value: serde_json::Value| claims.insert(name.to_owned(), value);
    put("sub", json!(person.username.as_str()));
    if scopes.has("profile") {
        put("name", json!(person.name));
        put("given_name", json!(person.first_name));
        put("family_name", json!(person.last_name));
        put("preferred_username", json!(person.username.as_str()));
    }
    if scopes.has("email") {
        put("email", json!(person.email));
    }
    if let (true, Some(phone)) = (scopes.has("phone"), &person.phone) {
        put("phone_number", json!(phone));
    }
    if scopes.has("groups") {
        put("groups", json!(person.groups));
    }
    claims
}

/// Defguard's own fields of a person, by the names of its API. Templates for display name and e-mail may use them.
pub(super) fn own_fields(person: &Person) -> Map<String, serde_json::Value> {
    let fields = json!({
        "id": person.id,
        "username": person.username,
        "first_name": person.first_name,
        "last_name": person.last_name,
        "name": person.name,
        "email": person.email,
        "phone": person.phone,
        "groups": person.groups,
        "is_active": person.is_active,
        "enrolled": person.enrolled,
        "is_admin": person.is_admin,
    });
    match fields {
        serde_json::Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

/// Defguard's own fields as far as claims tell them, for `render`, which knows no person.
pub(super) fn fields_from_claims(claims: &Map<String, serde_json::Value>) -> Map<String, serde_json::Value> {
    let sources = [
        ("username", ["preferred_username", "sub"].as_slice()),
        ("first_name", &["given_name"]),
        ("last_name", &["family_name"]),
        ("phone", &["phone_number"]),
    ];
    let value = |names: &[&str]| names.iter().find_map(|name| claims.get(*name)).cloned();
    sources.into_iter().filter_map(|(field, names)| Some((field.to_owned(), value(names)?))).collect()
}

/// Defguard's fields that are no claims, with the claim to use instead, if there is one.
pub(super) const FIELDS: &[(&str, Option<&str>)] = &[
    ("username", Some("preferred_username")),
    ("first_name", Some("given_name")),
    ("last_name", Some("family_name")),
    ("phone", Some("phone_number")),
    ("id", None),
    ("is_active", None),
    ("enrolled", None),
    ("is_admin", None),
    ("ldap_pass_requires_change", None),
    ("mfa_enabled", None),
    ("mfa_method", None),
    ("totp_enabled", None),
    ("email_mfa_enabled", None),
    ("authorized_apps", None),
    ("devices", None),
];

/// Claims that are new with every login, or that this program is not told.
pub(super) const LOGIN_CLAIMS: &[&str] = &["iss", "aud", "exp", "iat", "nonce", "at_hash", "c_hash"];

/// Registered OIDC claims: asked for as an attribute, a missing one is None, not undefined.
pub(super) const REGISTERED: &[&str] = &[
    "sub",
    "name",
    "given_name",
    "family_name",
    "middle_name",
    "nickname",
    "preferred_username",
    "profile",
    "picture",
    "website",
    "email",
    "email_verified",
    "gender",
    "birthdate",
    "zoneinfo",
    "locale",
    "phone_number",
    "phone_number_verified",
    "address",
    "updated_at",
];

/// Attributes of `UserInfo` that win over claims of the same name.
pub(super) const USER_METHODS: &[&str] = &[
    "clear",
    "copy",
    "fromkeys",
    "get",
    "items",
    "keys",
    "pop",
    "popitem",
    "setdefault",
    "update",
    "values",
    "filter",
    "validate_locale",
    "REGISTERED_CLAIMS",
    "SCOPES_CLAIMS_MAPPING",
];

/// The variable `user`.
#[derive(Debug)]
pub(super) struct UserObject {
    claims: Vec<(String, Value)>,
    /// Found by name where no claim is; not counted, listed or printed.
    fields: Vec<(String, Value)>,
}

impl UserObject {
    pub(super) fn new(
        claims: &Map<String, serde_json::Value>,
        fields: &Map<String, serde_json::Value>,
    ) -> Self {
        let values = |map: &Map<String, serde_json::Value>| {
            map.iter().map(|(name, value)| (name.clone(), from_json(value))).collect()
        };
        Self { claims: values(claims), fields: values(fields) }
    }

    /// The claims, in order.
    pub(super) fn claims(&self) -> &[(String, Value)] {
        &self.claims
    }

    /// `user['name']` and `user.get('name')`.
    pub(super) fn get(&self, name: &str) -> Option<Value> {
        let find = |values: &[(String, Value)]| {
            values.iter().find(|(other, _)| other == name).map(|(_, value)| value.clone())
        };
        find(&self.claims).or_else(|| find(&self.fields))
    }

    /// `user.name`, where `name` is no method.
    pub(super) fn attribute(&self, name: &str) -> Value {
        match self.get(name) {
            Some(value) => value,
            None if REGISTERED.contains(&name) => Value::from(()),
            None => Value::UNDEFINED,
        }
    }

    /// `user|attr('name')`: registered claims are attributes, others are not.
    pub(super) fn own_attribute(&self, name: &str) -> Result<Value, minijinja::Error> {
        if USER_METHODS.contains(&name) || name.starts_with("__") {
            return Err(super::value::cannot("a method as a value"));
        }
        let field = self.fields.iter().find(|(other, _)| other == name);
        let known = REGISTERED.contains(&name) || field.is_some();
        Ok(if known { self.attribute(name) } else { Value::UNDEFINED })
    }
}

impl Object for UserObject {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Map
    }
    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.claims.iter().map(|(name, _)| Value::from(name.as_str())).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::domain::{DefguardId, Username};

    fn person() -> Person {
        Person {
            id: DefguardId(9),
            username: Username::new("user001"),
            first_name: "Søren".into(),
            last_name: "Ångström".into(),
            name: "Søren Ångström".into(),
            email: "user001@example.com".into(),
            phone: None,
            groups: BTreeSet::new(),
            is_active: true,
            enrolled: true,
            is_admin: false,
        }
    }

    #[test]
    fn the_claims_are_those_of_the_recorded_id_token_in_its_order() {
        let text = include_str!("../../tests/data/defguard/07-id-token-claims-groups.json");
        let mut recorded: Map<String, serde_json::Value> = serde_json::from_str(text).unwrap();
        recorded.retain(|name, _| !LOGIN_CLAIMS.contains(&name.as_str()));
        let made = claims(&person(), &Scopes::new(["openid", "profile", "email", "phone", "groups"]));
        assert_eq!(serde_json::to_string(&made).unwrap(), serde_json::to_string(&recorded).unwrap());
    }

    #[test]
    fn a_scope_that_is_not_asked_for_gives_no_claim() {
        let with_phone = Person { phone: Some("+48 1".into()), ..person() };
        assert_eq!(claims(&with_phone, &Scopes::default()).keys().collect::<Vec<_>>(), ["sub"]);
        assert_eq!(
            claims(&with_phone, &Scopes::new(["phone", "email"])).keys().collect::<Vec<_>>(),
            ["sub", "email", "phone_number"]
        );
    }
}
