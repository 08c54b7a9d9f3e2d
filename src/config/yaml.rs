//! YAML as Synapse reads it, as far as it has to be told apart here. See [`super::homeserver_yaml`].

use std::{collections::BTreeMap, fmt};

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{
    Location, Spanned,
    options::{DuplicateKeyPolicy, NonFiniteFloatPolicy},
};

/// The top-level keys that matter here.
const KEYS: [&str; 12] = [
    "server_name",
    "oidc_providers",
    "oidc_config",
    "public_baseurl",
    "enable_registration",
    "password_config",
    "email",
    "sso",
    "session_lifetime",
    "nonrefreshable_access_token_lifetime",
    "registration_shared_secret",
    "registration_shared_secret_path",
];

/// How deep mappings and lists may stand in one another. Synapse's own config has ten levels at most, and each takes
/// some KiB of the stack.
const DEEPEST: usize = 32;

/// Why a text cannot be read, and where.
pub(super) struct Trouble {
    /// Line and column, if they are known.
    pub(super) position: Option<(u32, u32)>,
    /// What is wrong.
    pub(super) why: String,
    /// What to do.
    pub(super) mend: &'static str,
}

impl From<serde_saphyr::Error> for Trouble {
    fn from(error: serde_saphyr::Error) -> Self {
        let position = error.location().and_then(position);
        match error {
            serde_saphyr::Error::Budget { .. } => Self {
                position,
                why: format!("this has more than {DEEPEST} levels, or is larger than any config"),
                mend: "Take the templates out of it and write them into [templates] of our own config.",
            },
            error => Self {
                position,
                why: format!("this is not YAML: {error}"),
                mend: "Mend the homeserver's config; Synapse would not start with it either.",
            },
        }
    }
}

/// Reads the keys that matter from the text of one file, in its order. A file that is no mapping has none: Synapse
/// passes it over.
pub(super) fn parse(text: &str) -> Result<Vec<(&'static str, Node)>, Trouble> {
    let options = serde_saphyr::options! {
        // Errors must not quote the lines around them.
        with_snippet: false,
        budget: serde_saphyr::budget! { max_depth: DEEPEST },
        duplicate_keys: DuplicateKeyPolicy::LastWins,
        non_finite_float_policy: NonFiniteFloatPolicy::PassThrough,
    };
    serde_saphyr::from_str_with_options::<Top>(text, options).map(|top| top.0).map_err(Trouble::from)
}

/// The whole of one file.
struct Top(Vec<(&'static str, Node)>);

impl<'de> Deserialize<'de> for Top {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TopVisitor;

        impl<'de> Visitor<'de> for TopVisitor {
            type Value = Top;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a file of keys and values")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Top, A::Error> {
                let mut found = Vec::new();
                while let Some(Key(key)) = map.next_key()? {
                    match KEYS.into_iter().find(|known| *known == key) {
                        Some(known) => found.push((known, map.next_value()?)),
                        None => {
                            map.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                Ok(Top(found))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Top, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Top(Vec::new()))
            }

            fn visit_unit<E>(self) -> Result<Top, E> {
                Ok(Top(Vec::new()))
            }

            fn visit_bool<E>(self, _: bool) -> Result<Top, E> {
                Ok(Top(Vec::new()))
            }

            fn visit_i64<E>(self, _: i64) -> Result<Top, E> {
                Ok(Top(Vec::new()))
            }

            fn visit_u64<E>(self, _: u64) -> Result<Top, E> {
                Ok(Top(Vec::new()))
            }

            fn visit_f64<E>(self, _: f64) -> Result<Top, E> {
                Ok(Top(Vec::new()))
            }

            fn visit_str<E>(self, _: &str) -> Result<Top, E> {
                Ok(Top(Vec::new()))
            }
        }

        deserializer.deserialize_any(TopVisitor)
    }
}

/// A value and where it stands.
pub(super) type Node = Spanned<Yaml>;

/// A YAML value, as far as it has to be told apart here.
pub(super) enum Yaml {
    Null,
    Bool(bool),
    /// A number, and whether it is other than nought.
    Number(bool),
    Text(String),
    List(Vec<Node>),
    Map(BTreeMap<String, Node>),
}

impl Yaml {
    /// A value by its key; null is as good as missing only where Synapse says so.
    pub(super) fn get(&self, key: &str) -> Option<&Node> {
        match self {
            Self::Map(map) => map.get(key),
            _ => None,
        }
    }

    /// What Python takes as true.
    pub(super) fn is_something(&self) -> bool {
        match self {
            Self::Null => false,
            Self::Bool(truth) | Self::Number(truth) => *truth,
            Self::Text(text) => !text.is_empty(),
            Self::List(list) => !list.is_empty(),
            Self::Map(map) => !map.is_empty(),
        }
    }

    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing (null)",
            Self::Bool(_) => "a truth value (yes, no, true, false)",
            Self::Number(_) => "a number",
            Self::Text(_) => "a text",
            Self::List(_) => "a list",
            Self::Map(_) => "a table of keys",
        }
    }
}

impl<'de> Deserialize<'de> for Yaml {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct YamlVisitor;

        impl<'de> Visitor<'de> for YamlVisitor {
            type Value = Yaml;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any value")
            }

            fn visit_unit<E>(self) -> Result<Yaml, E> {
                Ok(Yaml::Null)
            }

            fn visit_none<E>(self) -> Result<Yaml, E> {
                Ok(Yaml::Null)
            }

            fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Yaml, D::Error> {
                deserializer.deserialize_any(self)
            }

            fn visit_bool<E>(self, value: bool) -> Result<Yaml, E> {
                Ok(Yaml::Bool(value))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Yaml, E> {
                Ok(Yaml::Number(value != 0))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Yaml, E> {
                Ok(Yaml::Number(value != 0))
            }

            fn visit_i128<E>(self, value: i128) -> Result<Yaml, E> {
                Ok(Yaml::Number(value != 0))
            }

            fn visit_u128<E>(self, value: u128) -> Result<Yaml, E> {
                Ok(Yaml::Number(value != 0))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Yaml, E> {
                Ok(Yaml::Number(value != 0.0))
            }

            fn visit_str<E>(self, value: &str) -> Result<Yaml, E> {
                Ok(Yaml::Text(value.to_owned()))
            }

            fn visit_bytes<E>(self, _: &[u8]) -> Result<Yaml, E> {
                Ok(Yaml::List(Vec::new()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Yaml, A::Error> {
                let mut list = Vec::new();
                while let Some(element) = seq.next_element()? {
                    list.push(element);
                }
                Ok(Yaml::List(list))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Yaml, A::Error> {
                let mut found = BTreeMap::new();
                while let Some(Key(key)) = map.next_key()? {
                    found.insert(key, map.next_value()?);
                }
                Ok(Yaml::Map(found))
            }
        }

        deserializer.deserialize_any(YamlVisitor)
    }
}

/// A key of a mapping. Other keys than texts are none of ours, whatever they are.
struct Key(String);

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match Yaml::deserialize(deserializer)? {
            Yaml::Text(text) => Self(text),
            _ => Self(String::new()),
        })
    }
}

/// Line and column, if they are known.
pub(super) fn position(location: Location) -> Option<(u32, u32)> {
    (location != Location::UNKNOWN)
        .then(|| Some((u32::try_from(location.line()).ok()?, u32::try_from(location.column()).ok()?)))?
}
