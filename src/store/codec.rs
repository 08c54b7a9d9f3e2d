//! How keys and values stand in the database: big-endian keys, and values of one version byte and JSON.

use serde::{Serialize, de::DeserializeOwned};

use super::{BACKOFF, INTENTS, JOURNAL, LINKS, RUNS, STANDOFFS};
use crate::domain::{DefguardId, Failure, FailureClass, Peer};

/// The version of the shape of values.
const VERSION: u8 = 1;

/// Writes a value.
pub(super) fn encode<T: Serialize>(tree: &str, value: &T) -> Result<Vec<u8>, Failure> {
    let mut bytes = vec![VERSION];
    serde_json::to_writer(&mut bytes, value).map_err(|error| {
        Failure::new(
            Peer::Store,
            FailureClass::Permanent,
            format!("writing to `{tree}`"),
            format!("the value cannot be put into JSON: {error}"),
        )
    })?;
    Ok(bytes)
}

/// Reads a value. What cannot be read is an error that names the place but never shows the content, which can be
/// personal data; the value stays where it is.
pub(super) fn decode<T: DeserializeOwned>(tree: &str, key: &[u8], bytes: &[u8]) -> Result<T, Failure> {
    let (version, json) = match bytes.split_first() {
        Some((version, json)) => (*version, json),
        None => return Err(unreadable(tree, key, "it is empty")),
    };
    if version != VERSION {
        return Err(unreadable(
            tree,
            key,
            format!("its version is {version}, and this program knows version {VERSION} only"),
        ));
    }
    serde_json::from_slice(json).map_err(|error| {
        let what = match error.classify() {
            serde_json::error::Category::Eof => "it ends too early",
            serde_json::error::Category::Data => "it has another shape than expected",
            serde_json::error::Category::Syntax | serde_json::error::Category::Io => "it is no JSON",
        };
        unreadable(tree, key, format!("{what} (at byte {} of {})", error.column(), json.len()))
    })
}

/// A value that is there and cannot be used.
pub(super) fn unreadable(tree: &str, key: &[u8], why: impl std::fmt::Display) -> Failure {
    Failure::new(
        Peer::Store,
        FailureClass::Permanent,
        format!("reading `{}` in `{tree}`", show_key(tree, key)),
        format!("the value cannot be used: {why}"),
    )
    .mend(
        "the value was left as it is; move the directory `store` out of the state directory and start again: the \
         links are found again by the ownership markers in Synapse",
    )
}

/// A key as a person reads it: the name of a setting, the id of a person, the number of a run or a journal line.
fn show_key(tree: &str, key: &[u8]) -> String {
    match (tree, <[u8; 8]>::try_from(key)) {
        (LINKS | INTENTS | BACKOFF | STANDOFFS, Ok(bytes)) => person_of(bytes).to_string(),
        (RUNS | JOURNAL, Ok(bytes)) => u64::from_be_bytes(bytes).to_string(),
        _ => String::from_utf8_lossy(key).escape_debug().to_string(),
    }
}

/// The key of a person. The order of keys is the order of ids, negative ones included.
pub(super) fn person_key(id: DefguardId) -> [u8; 8] {
    (id.0.cast_unsigned() ^ (1 << 63)).to_be_bytes()
}

fn person_of(key: [u8; 8]) -> DefguardId {
    DefguardId((u64::from_be_bytes(key) ^ (1 << 63)).cast_signed())
}

/// The person that a key stands for.
pub(super) fn key_person(tree: &str, key: &[u8]) -> Result<DefguardId, Failure> {
    <[u8; 8]>::try_from(key).map(person_of).map_err(|_| unreadable(tree, key, "its key is no person's id"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use chrono::{DateTime, Utc};
    use proptest::prelude::*;

    use super::*;
    use crate::domain::{
        Applied, Backoff, Change, Entry, ExternalId, Lifecycle, Link, Mxid, RunId, ServerName, Subject,
        Username,
    };

    fn time() -> impl Strategy<Value = DateTime<Utc>> {
        (0_i64..4_000_000_000, 0_u32..1_000_000_000)
            .prop_map(|(seconds, nanos)| DateTime::from_timestamp(seconds, nanos).unwrap())
    }

    fn mxid() -> impl Strategy<Value = Mxid> {
        let server = ServerName::try_from("example.org").unwrap();
        "[a-z]{1,20}".prop_map(move |name| Mxid::parse(&format!("@{name}:{server}"), &server).unwrap())
    }

    fn link() -> impl Strategy<Value = Link> {
        (any::<i64>(), any::<String>(), any::<Option<String>>(), mxid(), any::<(Option<String>, bool)>())
            .prop_map(|(id, username, subject, mxid, (display_name, email))| Link {
                lifecycle: Lifecycle::default(),
                former: BTreeSet::new(),
                id: DefguardId(id),
                username: Username::new(username),
                subject: subject.map(Subject::new),
                applied: Applied {
                    display_name,
                    email: email
                        .then(|| crate::domain::Email::canonical("someone@example.org").ok())
                        .flatten(),
                    unseen: BTreeSet::new(),
                },
                mxid,
            })
    }

    fn change() -> impl Strategy<Value = Change> {
        let ids = || {
            proptest::collection::btree_set(any::<(String, String)>(), 0..4).prop_map(|ids| {
                ids.into_iter()
                    .map(|(auth_provider, external_id)| ExternalId { auth_provider, external_id })
                    .collect::<BTreeSet<_>>()
            })
        };
        let texts = || proptest::collection::btree_set(any::<String>(), 0..4);
        prop_oneof![
            Just(Change::Created),
            Just(Change::Unlinked),
            any::<(Option<String>, Option<String>)>()
                .prop_map(|(before, after)| Change::DisplayName { before, after }),
            (texts(), texts()).prop_map(|(before, after)| Change::Emails { before, after }),
            (ids(), ids()).prop_map(|(before, after)| Change::ExternalIds { before, after }),
        ]
    }

    fn entry() -> impl Strategy<Value = Entry> {
        (any::<Option<u64>>(), time(), any::<i64>(), mxid(), change()).prop_map(
            |(run, at, id, mxid, change)| Entry { run: run.map(RunId), at, id: DefguardId(id), mxid, change },
        )
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back_the_same(link in link(), entry in entry()) {
            let bytes = encode("links", &link).unwrap();
            prop_assert_eq!(decode::<Link>("links", &[], &bytes).unwrap(), link);
            let bytes = encode("journal", &entry).unwrap();
            prop_assert_eq!(decode::<Entry>("journal", &[], &bytes).unwrap(), entry);
        }

        #[test]
        fn a_value_that_was_cut_short_is_an_error_that_names_its_place(link in link(), at in any::<prop::sample::Index>()) {
            let bytes = encode("links", &link).unwrap();
            let cut = &bytes[..at.index(bytes.len())];
            let failure = decode::<Link>("links", &person_key(link.id), cut).unwrap_err();
            prop_assert_eq!(failure.what, format!("reading `{}` in `links`", link.id));
            prop_assert_eq!(failure.class, FailureClass::Permanent);
        }

        /// The database has checksums of its own below this; here it matters that nothing panics and that what is
        /// still read has the right shape.
        #[test]
        fn flipped_bits_never_panic_and_never_show_the_content(
            entry in entry(),
            flips in proptest::collection::vec((any::<prop::sample::Index>(), 0_u8..8), 1..5),
        ) {
            let mut bytes = encode("journal", &entry).unwrap();
            for (at, bit) in flips {
                let at = at.index(bytes.len());
                bytes[at] ^= 1 << bit;
            }
            let version = bytes[0];
            match decode::<Entry>("journal", &7_u64.to_be_bytes(), &bytes) {
                Ok(_) => prop_assert_eq!(version, VERSION),
                Err(failure) => {
                    prop_assert_eq!(failure.what, "reading `7` in `journal`");
                    prop_assert!(!failure.why.contains("example.org"), "{}", failure.why);
                }
            }
        }

        #[test]
        fn any_bytes_at_all_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode::<Link>("links", &bytes, &bytes);
            let _ = decode::<Backoff>("backoff", &bytes, &bytes);
        }

        #[test]
        fn keys_of_people_are_in_the_order_of_their_ids(a in any::<i64>(), b in any::<i64>()) {
            prop_assert_eq!(person_key(DefguardId(a)).cmp(&person_key(DefguardId(b))), a.cmp(&b));
            prop_assert_eq!(key_person("links", &person_key(DefguardId(a))), Ok(DefguardId(a)));
        }
    }
}
