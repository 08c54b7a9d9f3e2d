//! What homeserver.yaml says about logins.

use super::finding::{Finding, Kind};
use crate::{
    config::homeserver_yaml::{Facts, Given},
    domain::FieldPolicy,
};

const ABOUT: &str = "Synapse";

/// How this service treats the fields that Synapse and it both write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policies {
    /// `accounts.display_name`
    pub display_name: FieldPolicy,
    /// `accounts.email`
    pub email: FieldPolicy,
}

/// What in homeserver.yaml quarrels with provisioning, or opens a way around Defguard.
pub fn judge_homeserver_config(facts: &Facts, policies: Policies) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(allow_existing_users(facts));
    findings.extend(insecure_issuer(facts));
    findings.extend(profile_updates(facts, policies.display_name));
    findings.extend(open_registration(facts));
    findings.extend(passwords(facts, policies.email));
    findings.extend(facts.site.client_whitelist.iter().filter_map(whitelisted));
    findings.extend(session_lifetime(facts));
    findings
}

fn allow_existing_users(facts: &Facts) -> Option<Finding> {
    let given = &facts.entry.allow_existing_users;
    given.value.then(|| {
        Finding::warning(
            Kind::AllowExistingUsers,
            ABOUT,
            "`allow_existing_users` is on: a login without an account is tied to the one that has its localpart",
            "set `allow_existing_users: false` in the provider and restart Synapse; accounts are linked before the first \
             login, by `sync` and `adopt`, so that nobody needs it",
        )
        .because(
            "usernames and addresses can be given to somebody else, and whoever gets one that maps to the localpart of an \
             account takes that account over, be it an admin's",
        )
        .at(&given.at)
    })
}

fn insecure_issuer(facts: &Facts) -> Option<Finding> {
    let issuer = facts.entry.issuer.as_ref()?;
    let insecure = !issuer.value.starts_with("https://") && !facts.entry.skip_verification;
    insecure.then(|| {
        Finding::error(
            Kind::InsecureIssuer,
            ABOUT,
            "the issuer is not an https address",
            "serve Defguard by https; for a trial, `skip_verification: true` in the provider",
        )
        .because("Synapse refuses such a provider, and no login works")
        .at(&issuer.at)
    })
}

fn profile_updates(facts: &Facts, policy: FieldPolicy) -> Option<Finding> {
    let given = &facts.site.update_profile_information;
    if !given.value {
        return None;
    }
    let (why, mend) = match policy {
        FieldPolicy::Enforce => (
            "both write the display name: where the template gives something else at a login than in a sync, it changes \
             back and forth; and a template that fails for somebody keeps them from logging in",
            "set `update_profile_information: false` and restart Synapse; the sync keeps the names right",
        ),
        FieldPolicy::OnChange | FieldPolicy::Initial | FieldPolicy::Ignore => (
            "accounts.display_name lets people choose a name of their own, and each login takes it away again; and a \
             template that fails for somebody keeps them from logging in",
            "set `update_profile_information: false` and restart Synapse, or `display_name = \"enforce\"` in [accounts]",
        ),
    };
    let found = "`sso.update_profile_information` is on: Synapse writes the display name at each login";
    Some(Finding::warning(Kind::ProfileUpdates, ABOUT, found, mend).because(why).at(&given.at))
}

fn open_registration(facts: &Facts) -> Option<Finding> {
    let given = &facts.site.open_registration;
    given.value.then(|| {
        Finding::warning(
            Kind::OpenRegistration,
            ABOUT,
            "`enable_registration` is on: people can register without Defguard",
            "set `enable_registration: false` and restart Synapse, unless strangers are wanted",
        )
        .because(
            "whoever registers the name of somebody who has no account yet takes it from them; it then is a conflict",
        )
        .at(&given.at)
    })
}

fn passwords(facts: &Facts, email: FieldPolicy) -> Option<Finding> {
    let (passwords, mail) = (&facts.site.local_passwords, &facts.site.sends_mail);
    if !passwords.value {
        return None;
    }
    if mail.value && email != FieldPolicy::Ignore {
        return Some(
            Finding::warning(
                Kind::PasswordReset,
                ABOUT,
                "people can log in with passwords that Synapse keeps, Synapse sends mail, and this service gives \
                 accounts their address",
                "set `email = \"ignore\"` in [accounts], or `password_config: {enabled: false}` in homeserver.yaml",
            )
            .because(
                "whoever reads somebody's mail has Synapse send them a link for a new password, and is in without \
                 Defguard and its second factor, even after the person was disabled there",
            )
            .at(&mail.at),
        );
    }
    let mut found = Finding::advice(
        Kind::LocalPasswords,
        ABOUT,
        "people can log in with passwords that Synapse keeps, beside Defguard",
        "set `password_config: {enabled: false}` in homeserver.yaml once nobody needs one",
    )
    .because(
        "accounts made here have no password; one that somebody has already goes on working without Defguard",
    );
    if passwords.at.position.is_some() {
        found = found.at(&passwords.at);
    }
    Some(found)
}

/// Synapse compares the beginning of the client's address with these texts (`SSOConfig`, `sso_client_whitelist`).
fn whitelisted(given: &Given<String>) -> Option<Finding> {
    let text = given.value.as_str();
    let after_scheme = text.split_once("://").map_or("", |(_, rest)| rest);
    let problem = if after_scheme.is_empty() {
        format!("`{text}` in `sso.client_whitelist` is the beginning of the address of any client")
    } else if !after_scheme.contains('/') {
        format!(
            "`{text}` in `sso.client_whitelist` has no slash behind the host, so that `{text}.elsewhere.example` fits it, too"
        )
    } else if text.starts_with("http://") && !is_local(after_scheme) {
        format!("`{text}` in `sso.client_whitelist` is not encrypted on its way")
    } else {
        return None;
    };
    Some(
        Finding::warning(
            Kind::ClientWhitelist,
            ABOUT,
            problem,
            "write the whole address of each client with its slash, such as https://app.example.com/",
        )
        .because("such a client gets a login token of whoever follows a link to it, without a question")
        .at(&given.at),
    )
}

fn is_local(after_scheme: &str) -> bool {
    let host = after_scheme.split(['/', ':']).next().unwrap_or_default();
    matches!(host, "localhost" | "127.0.0.1" | "[")
}

fn session_lifetime(facts: &Facts) -> Option<Finding> {
    let at = facts.site.sessions_end.as_ref()?;
    Some(
        Finding::warning(
            Kind::SessionLifetime,
            ABOUT,
            format!("`{}` is set: access tokens end after that time, and so does the one of this service", at.key),
            "take the key out of homeserver.yaml; or make a new token in good time, put it into synapse.token_file, and \
             restart the daemon",
        )
        .because("with a token that has ended nothing is synced any more")
        .at(at),
    )
}

/// Whether only provisioned people can log in, and whether it is time for that. `provisioned` of `active` people whom
/// the sync concerns have an account.
pub fn judge_provisioning(facts: Option<&Facts>, provisioned: usize, active: usize) -> Option<Finding> {
    let given = facts.map(|facts| &facts.entry.enable_registration);
    let closed = given.is_some_and(|given| !given.value);
    let missing = active.saturating_sub(provisioned);
    let finding = match (closed, missing) {
        _ if active == 0 => return None,
        (true, 0) => Finding::ok(
            Kind::ProvisionedOnly,
            ABOUT,
            format!("only provisioned people can log in, and all {active} of them are provisioned"),
        ),
        (true, missing) => Finding::warning(
            Kind::ProvisionedOnly,
            ABOUT,
            format!(
                "only provisioned people can log in (`enable_registration: false` in the provider), and {missing} of \
                 {active} are not yet"
            ),
            "`sync`; then `status` says who is in conflict",
        )
        .because("Synapse refuses their login"),
        (false, 0) if facts.is_some() => Finding::advice(
            Kind::ProvisionedOnly,
            ABOUT,
            format!("all {active} people whom the sync concerns are provisioned, and a login can still make accounts"),
            "`setup oidc --provisioned-only --replace`, which adds `enable_registration: false` to the provider; then restart \
             Synapse",
        )
        .because("then no login can make a stray second account such as alice1 any more"),
        (false, _) => return None,
    };
    Some(match given {
        Some(given) => finding.at(&given.at),
        None => finding,
    })
}
