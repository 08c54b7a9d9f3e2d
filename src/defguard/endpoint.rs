//! What a request to Defguard is called where requests are counted.

use http::Method;
use url::Url;

/// One of a few names, whatever the path holds.
pub(super) fn name(_: &Method, url: &Url) -> &'static str {
    let Some((_, path)) = url.path().rsplit_once("/api/v1/") else { return "other" };
    match path.split('/').collect::<Vec<_>>().as_slice() {
        ["user"] => "user_list",
        ["user", _] => "user",
        ["me"] => "me",
        ["auth"] => "login",
        ["auth", "totp", "verify"] => "second_factor",
        ["group-info"] => "group_list",
        ["activity_log"] => "activity_log",
        ["webhook", ..] => "webhook",
        ["info" | "health"] => "info",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_has_one_of_a_few_names() {
        for (url, expected) in [
            ("http://h/api/v1/user?page=1&per_page=100", "user_list"),
            ("http://h/dg/api/v1/user/alice", "user"),
            ("http://h/api/v1/user/a%2Fb", "user"),
            ("http://h/api/v1/user/auth", "user"),
            ("http://h/api/v1/me", "me"),
            ("http://h/api/v1/auth", "login"),
            ("http://h/api/v1/auth/totp/verify", "second_factor"),
            ("http://h/api/v1/group-info", "group_list"),
            ("http://h/api/v1/webhook/3", "webhook"),
            ("http://h/api/v1/something/new", "other"),
            ("http://h/", "other"),
        ] {
            assert_eq!(name(&Method::GET, &Url::parse(url).unwrap()), expected, "{url}");
        }
    }
}
