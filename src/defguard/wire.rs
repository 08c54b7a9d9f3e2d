//! What Defguard sends, read into the words of the domain. Any bytes may come; nothing here can panic.

use std::collections::BTreeSet;

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::domain::{DefguardId, Page, Person, Username};

/// Defguard's `UserInfo`, as far as it is used here (`docs/facts/defguard.md` section 2). What is not listed is ignored,
/// so that a later 2.x may add to it; what is listed must be there.
#[derive(Deserialize)]
struct UserInfo {
    id: i64,
    username: String,
    first_name: String,
    last_name: String,
    name: String,
    email: String,
    #[serde(deserialize_with = "present")]
    phone: Option<String>,
    groups: BTreeSet<String>,
    is_active: bool,
    enrolled: bool,
    is_admin: bool,
}

impl UserInfo {
    fn into_person(self) -> Option<Person> {
        // Nobody can be looked up, mapped or linked by an empty username.
        (!self.username.is_empty()).then(|| Person {
            id: DefguardId(self.id),
            username: Username::new(self.username),
            first_name: self.first_name,
            last_name: self.last_name,
            name: self.name,
            email: self.email,
            phone: self.phone,
            groups: self.groups,
            is_active: self.is_active,
            enrolled: self.enrolled,
            is_admin: self.is_admin,
        })
    }
}

/// Rows are kept as they came until they are read one by one, so that a key that stands twice in one is seen: which of
/// the two is true cannot be said.
#[derive(Deserialize)]
struct WirePage<'a> {
    #[serde(borrow)]
    data: Vec<&'a RawValue>,
    pagination: Option<Pagination>,
}

#[derive(Deserialize)]
struct Details<'a> {
    #[serde(borrow)]
    user: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Pagination {
    current_page: u64,
    total_items: u64,
    total_pages: u64,
    #[serde(deserialize_with = "present")]
    next_page: Option<u64>,
}

/// One page with its place among the others.
#[derive(Debug)]
pub(super) struct PlacedPage {
    /// What is on it.
    pub(super) page: Page,
    /// Which page the server says it is, counting from 1.
    pub(super) current: u64,
    /// The page after it, if the server knows one.
    pub(super) next: Option<u64>,
}

/// Why a body is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ShapeError {
    /// A plain JSON array of everybody, which is how Defguard 1.x answers (`docs/facts/defguard.md` section 10).
    PlainArray,
    /// Not JSON, or cut off.
    NotJson,
    /// JSON of another shape; which part is wrong, without any value of it.
    Shape(&'static str),
}

/// Reads a page of the list. An entry that is no person is counted and does not spoil the page.
pub(super) fn page(body: &[u8]) -> Result<PlacedPage, ShapeError> {
    let text = json(body)?;
    if text.get().starts_with('[') {
        return Err(ShapeError::PlainArray);
    }
    let wire: WirePage<'_> = serde_json::from_str(text.get())
        .map_err(|_| ShapeError::Shape("`data` or `pagination` is not as Defguard 2.x sends it"))?;
    let pagination = wire.pagination.ok_or(ShapeError::Shape("`pagination` is missing"))?;
    let rows = wire.data.len();
    let people: Vec<Person> = wire.data.into_iter().filter_map(person).collect();
    Ok(PlacedPage {
        page: Page {
            malformed: rows - people.len(),
            people,
            total_items: pagination.total_items,
            total_pages: pagination.total_pages,
        },
        current: pagination.current_page,
        next: pagination.next_page,
    })
}

/// Reads the answer to the look-up of one person, `{"user": UserInfo, …}`.
pub(super) fn details(body: &[u8]) -> Result<Person, ShapeError> {
    let details: Details<'_> = serde_json::from_str(json(body)?.get())
        .map_err(|_| ShapeError::Shape("it is not the look-up of a person as Defguard 2.x answers it"))?;
    let user = details.user.ok_or(ShapeError::Shape("`user` is missing"))?;
    person(user).ok_or(ShapeError::Shape("`user` is not a person as Defguard 2.x sends them"))
}

/// Reads the names in all groups (`GET /api/v1/group-info`).
pub(super) fn group_members(body: &[u8]) -> Result<BTreeSet<Username>, ShapeError> {
    #[derive(Deserialize)]
    struct Group {
        members: Vec<String>,
    }
    let groups: Vec<Group> = serde_json::from_str(json(body)?.get())
        .map_err(|_| ShapeError::Shape("it is not a list of groups as Defguard 2.x sends it"))?;
    Ok(groups.into_iter().flat_map(|group| group.members).map(Username::new).collect())
}

/// Reads a bare `UserInfo`.
pub(super) fn user(body: &[u8]) -> Result<Person, ShapeError> {
    person(json(body)?).ok_or(ShapeError::Shape("it is not a person as Defguard 2.x sends them"))
}

/// The whole of a body, if it is JSON at all.
fn json(body: &[u8]) -> Result<&RawValue, ShapeError> {
    serde_json::from_slice(body).map_err(|_| ShapeError::NotJson)
}

/// The text of Defguard's JSON error bodies, `{"msg": "…"}`.
pub(super) fn message(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Message {
        msg: String,
    }
    serde_json::from_slice::<Message>(body).ok().map(|message| message.msg)
}

/// Reads a value that may be null and must be there; serde takes a missing key for null.
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    Option::deserialize(deserializer)
}

fn person(row: &RawValue) -> Option<Person> {
    serde_json::from_str::<UserInfo>(row.get()).ok()?.into_person()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn info(id: i64) -> Value {
        json!({
            "id": id, "username": format!("u{id}"), "first_name": "", "last_name": "", "name": " ", "email": "",
            "phone": null, "groups": ["b", "a"], "is_active": true, "enrolled": false, "is_admin": false,
            "devices": [{"anything": 1}], "something_new": {}
        })
    }

    #[test]
    fn one_broken_entry_is_counted_and_the_rest_of_the_page_is_read() {
        let mut wrong_type = info(2);
        wrong_type["id"] = json!("2");
        let mut nameless = info(3);
        nameless["username"] = json!("");
        let mut lacking = info(4);
        lacking.as_object_mut().unwrap().remove("is_active");
        let body = json!({
            "data": [info(1), wrong_type, nameless, lacking, null, [], 7, info(5)],
            "pagination": {"current_page": 1, "page_size": 100, "total_items": 8, "total_pages": 1, "next_page": null}
        });
        let read = page(body.to_string().as_bytes()).unwrap();
        let ids: Vec<i64> = read.page.people.iter().map(|person| person.id.0).collect();
        assert_eq!(ids, [1, 5]);
        assert_eq!(read.page.malformed, 6);
        assert_eq!((read.current, read.next, read.page.total_items), (1, None, 8));
    }

    #[test]
    fn a_page_without_pagination_is_refused_and_a_plain_array_is_told_apart() {
        let error = |body: &str| page(body.as_bytes()).unwrap_err();
        assert_eq!(error("[]"), ShapeError::PlainArray);
        assert_eq!(error(r#"{"data":[]}"#), ShapeError::Shape("`pagination` is missing"));
        assert_eq!(error(r#"{"data":[],"pagin"#), ShapeError::NotJson);
        assert!(matches!(error(r#"{"data":{},"pagination":{}}"#), ShapeError::Shape(_)));
        assert!(matches!(
            error(r#"{"data":[],"pagination":{"current_page":1,"total_items":-1,"total_pages":1}}"#),
            ShapeError::Shape(_)
        ));
    }

    #[test]
    fn a_message_is_read_only_from_the_shape_that_defguard_uses() {
        assert_eq!(message(br#"{"msg":"user x not found"}"#).as_deref(), Some("user x not found"));
        for other in [&b"{}"[..], b"null", b"<html>", b"", br#"{"msg":7}"#] {
            assert_eq!(message(other), None);
        }
    }

    fn json_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec((key(), inner), 0..5).prop_map(|pairs| pairs.into_iter().collect()),
            ]
        })
    }

    /// Mostly the keys that matter, so that deeper parts of the readers are reached.
    fn key() -> impl Strategy<Value = String> {
        prop_oneof![
            prop::sample::select(vec![
                "data",
                "pagination",
                "user",
                "msg",
                "id",
                "username",
                "groups",
                "current_page",
                "total_items",
                "total_pages",
                "next_page",
                "name",
                "email",
                "is_active",
            ])
            .prop_map(str::to_owned),
            any::<String>(),
        ]
    }

    fn read_every_way(bytes: &[u8]) {
        let _ = page(bytes);
        let _ = details(bytes);
        let _ = user(bytes);
        let _ = message(bytes);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            read_every_way(&bytes);
        }

        #[test]
        fn no_json_makes_the_reader_panic(value in json_value(), cut in 0_usize..200) {
            let text = value.to_string();
            read_every_way(text.as_bytes());
            read_every_way(&text.as_bytes()[..cut.min(text.len())]);
        }

        #[test]
        fn every_row_of_a_page_is_either_read_or_counted(rows in prop::collection::vec(json_value(), 0..6)) {
            let count = rows.len();
            let body = json!({
                "data": rows,
                "pagination": {"current_page": 1, "total_items": 0, "total_pages": 1, "next_page": null}
            });
            let read = page(body.to_string().as_bytes()).unwrap();
            prop_assert_eq!(read.page.people.len() + read.page.malformed, count);
        }
    }
}
