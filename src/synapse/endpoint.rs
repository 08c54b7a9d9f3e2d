//! What a request to Synapse is called where requests are counted.

use http::Method;
use url::Url;

/// One of a few names, whatever the path holds.
pub(super) fn name(method: &Method, url: &Url) -> &'static str {
    let path = url.path();
    // The base address may have a path of its own.
    let begin = path.find("/_synapse/").or_else(|| path.find("/_matrix/"));
    let Some(path) = begin.and_then(|begin| path.get(begin + 1..)) else { return "other" };
    match path.split('/').collect::<Vec<_>>().as_slice() {
        ["_synapse", "admin", _, rest @ ..] => admin(method, rest),
        ["_matrix", "client", "versions"] => "version",
        ["_matrix", "client", _, rest @ ..] => client(rest),
        _ => "other",
    }
}

fn admin(method: &Method, path: &[&str]) -> &'static str {
    match path {
        ["users"] => "user_list",
        ["users", _] if *method == Method::PUT => "user_write",
        ["users", _] => "user",
        ["users", _, "admin"] => "admin",
        ["users", _, "joined_rooms" | "memberships"] => "user_rooms",
        ["users", _, "pushers"] => "user_pushers",
        ["users", _, "devices", ..] | ["users", _, "delete_devices"] | ["whois", _] => "user_sessions",
        ["users", _, "accountdata"] => "account_data",
        ["auth_providers", _, "users", _] => "user_by_external_id",
        ["threepid", _, "users", _] => "user_by_email",
        ["deactivate", _] => "deactivate",
        ["server_version"] => "version",
        _ => "other",
    }
}

fn client(path: &[&str]) -> &'static str {
    match path {
        ["account", "whoami"] => "whoami",
        ["auth_metadata"] => "auth_metadata",
        ["register", ..] => "register",
        ["user", _, "account_data", _] => "account_data",
        ["rooms", ..] => "room",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_has_one_of_a_few_names() {
        for (method, path, expected) in [
            (Method::GET, "/_synapse/admin/v2/users?deactivated=true", "user_list"),
            (Method::GET, "/base/_synapse/admin/v2/users/%40a%3Ab", "user"),
            (Method::PUT, "/_synapse/admin/v2/users/%40a%3Ab", "user_write"),
            (Method::GET, "/_synapse/admin/v1/users/%40a%3Ab/admin", "admin"),
            (Method::GET, "/_synapse/admin/v2/users/%40a%3Ab/devices", "user_sessions"),
            (Method::GET, "/_synapse/admin/v1/auth_providers/oidc-x/users/deactivate", "user_by_external_id"),
            (Method::GET, "/_synapse/admin/v1/threepid/email/users/a%40b", "user_by_email"),
            (Method::POST, "/_synapse/admin/v1/deactivate/%40a%3Ab", "deactivate"),
            (Method::GET, "/_synapse/admin/v1/server_version", "version"),
            (Method::GET, "/_matrix/client/v3/account/whoami", "whoami"),
            (Method::GET, "/_matrix/client/v1/auth_metadata", "auth_metadata"),
            (Method::POST, "/_matrix/client/v3/register", "register"),
            (Method::GET, "/_matrix/client/versions", "version"),
            (Method::GET, "/_synapse/admin/v9/alice", "other"),
            (Method::GET, "/", "other"),
        ] {
            let url = Url::parse(&format!("http://h{path}")).unwrap();
            assert_eq!(name(&method, &url), expected, "{path}");
        }
    }
}
