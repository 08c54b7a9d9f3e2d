//! Synapse's `map_username_to_mxid_localpart` (`docs/facts/synapse.md` section 9).

/// Brings any text into the alphabet of localparts: ASCII letters are lower-cased, and every byte outside
/// `a-z0-9_-./+` becomes `=` and two hexadecimal digits; so does an underscore at the beginning.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for (at, byte) in text.bytes().enumerate() {
        match byte.to_ascii_lowercase() {
            b'_' if at == 0 => out.push_str("=5f"),
            byte @ (b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'.' | b'/' | b'+') => {
                out.push(char::from(byte))
            }
            byte => out.push_str(&format!("={byte:02x}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use matrix_sdk::ruma::server_name;
    use proptest::prelude::*;

    use super::*;
    use crate::domain::{Localpart, LocalpartProblem};

    #[test]
    fn what_has_no_place_in_a_localpart_is_escaped_byte_by_byte() {
        for (text, escaped) in [
            ("JohnDoe", "johndoe"),
            ("Örjan", "=c3=96rjan"),
            ("jöhn", "j=c3=b6hn"),
            ("a b", "a=20b"),
            ("o'neil", "o=27neil"),
            ("a=b", "a=3db"),
            ("_svc_", "=5fsvc_"),
            ("__x", "=5f_x"),
            ("a/b+c.d-e", "a/b+c.d-e"),
            ("", ""),
        ] {
            assert_eq!(escape(text), escaped, "{text}");
        }
    }

    proptest! {
        #[test]
        fn escaping_leaves_nothing_to_object_to_but_emptiness_digits_and_length(text in any::<String>()) {
            let escaped = escape(&text);
            let server = server_name!("example.org").to_owned();
            match Localpart::new(&escaped, &server) {
                Ok(localpart) => prop_assert_eq!(localpart.as_str(), &escaped),
                Err(LocalpartProblem::Empty) => prop_assert!(text.is_empty()),
                Err(LocalpartProblem::Numeric) => prop_assert!(text.bytes().all(|b| b.is_ascii_digit())),
                Err(LocalpartProblem::TooLong) => prop_assert!(escaped.len() > 242),
                Err(other) => prop_assert!(false, "{}", other),
            }
        }
    }
}
