//! What the templates make of everybody, which logins accounts carry, and what logins would do.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    finding::{Finding, Kind},
    named,
};
use crate::{
    config::TemplateTexts,
    domain::{Account, ExternalId, Mapped, Mxid, Person, ServerName},
    forecast::Forecasts,
    mapping::{Scopes, Templates},
};

const ABOUT: &str = "templates";

/// Defguard's own fields, and the claims that say the same at a login.
const CLAIMS: [(&str, &str); 4] = [
    ("first_name", "given_name"),
    ("last_name", "family_name"),
    ("username", "preferred_username"),
    ("phone", "phone_number"),
];

/// Where a template leaves a hole, where two people meet, and where a login would give something else than the sync.
/// `people` are the active ones whom the sync concerns, `own` is the account of our token.
pub fn judge_templates(
    people: &[&Person],
    texts: &TemplateTexts,
    templates: &Templates,
    scopes: &Scopes,
    server: &ServerName,
    own: &Mxid,
) -> Vec<Finding> {
    let mut holes: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut localparts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut differ: BTreeMap<Differs, Vec<String>> = BTreeMap::new();
    let mut ourselves = Vec::new();
    for person in people {
        let name = || person.username.to_string();
        let mapped = templates.map(person, scopes, server);
        for hole in holes_of(&mapped) {
            holes.entry(hole).or_default().push(name());
        }
        if let Ok(localpart) = &mapped.localpart {
            localparts.entry(localpart.to_string()).or_default().push(name());
            if Mxid::new(localpart, server) == *own {
                ourselves.push(name());
            }
        }
        for field in differences(&mapped, &templates.map_as_login(person, scopes, server)) {
            differ.entry(field).or_default().push(name());
        }
    }
    let looked_at = format!("rendered for all active people in scope: {}", people.len());
    let mut findings = vec![Finding::ok(Kind::Templates, ABOUT, looked_at)];
    findings.extend(holes.into_iter().map(|(hole, people)| {
        Finding::warning(
            Kind::TemplateHole,
            ABOUT,
            format!("{hole}, for {}", named(&people)),
            "correct these people in Defguard, or write a template that works for them",
        )
    }));
    findings.extend(localparts.into_iter().filter(|(_, people)| people.len() > 1).map(|(localpart, people)| {
        Finding::warning(
            Kind::LocalpartCollision,
            ABOUT,
            format!("{} become the same, @{localpart}", named(&people)),
            "whoever of them has that account already keeps it, the others get none until they are told apart; see \
             `explain` about each of them",
        )
    }));
    if !ourselves.is_empty() {
        findings.push(Finding::warning(
            Kind::OwnAccountWanted,
            ABOUT,
            format!(
                "{} would become {own}, the account whose token this service uses; it is never touched, so they get no \
                 account",
                named(&ourselves),
            ),
            "make an account for this service in Synapse that has a name of its own, and take its token",
        ));
    }
    findings.extend(differ.into_iter().map(|(field, people)| differs(field, &people, texts)));
    findings
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Differs {
    DisplayName,
    Email,
}

fn differences(sync: &Mapped, login: &Mapped) -> Vec<Differs> {
    let mut fields = Vec::new();
    if sync.display_name.as_ref().ok() != login.display_name.as_ref().ok() {
        fields.push(Differs::DisplayName);
    }
    if sync.email.as_ref().ok() != login.email.as_ref().ok() {
        fields.push(Differs::Email);
    }
    fields
}

fn differs(field: Differs, people: &[String], texts: &TemplateTexts) -> Finding {
    let (name, key, text) = match field {
        Differs::DisplayName => ("display name", "display_name_template", texts.display_name.as_ref()),
        Differs::Email => ("e-mail address", "email_template", texts.email.as_ref()),
    };
    let found = format!("a login would give another {name} than the sync, for {}", named(people));
    let Some(text) = text else { return Finding::ok(Kind::LoginDiffers, ABOUT, found) };
    let used: Vec<(&str, &str)> =
        CLAIMS.into_iter().filter(|(own, _)| text.text.contains(&format!("user.{own}"))).collect();
    let mut instead = text.text.clone();
    for (own, claim) in &used {
        instead = replace_field(&instead, own, claim);
    }
    let (why, mend) = if used.is_empty() {
        (
            "the template uses fields that Defguard does not send at a login, where Synapse sees nothing".to_owned(),
            "use claims instead (given_name, family_name, preferred_username, phone_number), here and in homeserver.yaml"
                .to_owned(),
        )
    } else {
        let empty: Vec<String> = used.iter().map(|(own, _)| format!("`user.{own}`")).collect();
        (
            format!(
                "at a login there is nothing in {}, since Defguard does not send it there",
                empty.join(" and ")
            ),
            format!(
                "write `{key}: \"{instead}\"` in homeserver.yaml (and here, if the template stands here)"
            ),
        )
    };
    Finding::warning(Kind::LoginDiffers, ABOUT, found, mend).because(why).at(&text.at)
}

/// `user.phone` without touching `user.phone_number`.
fn replace_field(text: &str, own: &str, claim: &str) -> String {
    let field = format!("user.{own}");
    let mut parts = text.split(field.as_str());
    let mut replaced = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let goes_on = part.starts_with(|c: char| c.is_alphanumeric() || c == '_');
        replaced.push_str(if goes_on { &field } else { "user." });
        if !goes_on {
            replaced.push_str(claim);
        }
        replaced.push_str(part);
    }
    replaced
}

fn holes_of(mapped: &Mapped) -> Vec<String> {
    let mut holes = Vec::new();
    if let Err(error) = &mapped.subject {
        holes.push(format!("subject_template gives nothing usable ({error}): they get no account"));
    }
    if let Err(error) = &mapped.localpart {
        holes.push(format!("localpart_template gives nothing usable ({error}): they get no account"));
    }
    match &mapped.display_name {
        Err(error) => holes.push(format!("display_name_template gives nothing usable ({error})")),
        Ok(None) => {
            holes.push("display_name_template gives nothing, so Synapse takes the localpart".to_owned())
        }
        Ok(Some(_)) => {}
    }
    match &mapped.email {
        Err(error) => {
            holes.push(format!("email_template gives nothing usable ({error}): the account has no address"))
        }
        Ok(None) => holes.push("email_template gives nothing: the account has no address".to_owned()),
        Ok(Some(_)) => {}
    }
    holes
}

/// Whether the logins that accounts carry are those of `auth_provider`. `accounts` are some of the homeserver's, `offered`
/// the providers that Synapse has.
pub fn judge_external_ids(accounts: &[Account], auth_provider: &str, offered: &[String]) -> Option<Finding> {
    let is_oidc = |id: &&ExternalId| id.auth_provider == "oidc" || id.auth_provider.starts_with("oidc-");
    let mut carried: BTreeMap<&str, usize> = BTreeMap::new();
    for account in accounts {
        let providers: BTreeSet<&str> =
            account.external_ids.iter().filter(is_oidc).map(|id| id.auth_provider.as_str()).collect();
        for provider in providers {
            *carried.entry(provider).or_default() += 1;
        }
    }
    let ours = carried.remove(auth_provider).unwrap_or_default();
    carried.retain(|provider, _| !offered.iter().any(|offered| offered == provider));
    if carried.is_empty() {
        let count = accounts.len();
        return (count > 0).then(|| {
            let found =
                format!("{ours} of {count} accounts that were looked at carry a login of {auth_provider}");
            Finding::ok(Kind::ExternalIds, "accounts", found)
        });
    }
    let others: Vec<String> =
        carried.iter().map(|(provider, count)| format!("{count} carry one of {provider}")).collect();
    let old = carried.keys().next().and_then(|provider| provider.strip_prefix("oidc-")).unwrap_or("oidc");
    let found = format!(
        "of {} accounts that were looked at, {ours} carry a login of {auth_provider}, and {}, which Synapse does not \
         offer",
        accounts.len(),
        others.join(", ")
    );
    let mend = format!(
        "if the `idp_id` of the provider was changed, write the old one again: `idp_id: {old}`, and restart Synapse; if \
         there was another provider once, there is nothing to do"
    );
    let finding = if ours == 0 {
        Finding::error(Kind::IdpIdChanged, "accounts", found, mend)
    } else {
        Finding::warning(Kind::IdpIdChanged, "accounts", found, mend)
    };
    Some(finding.because(
        "a login is found by its idp_id: with another one nobody's login opens their account any more",
    ))
}

/// What the forecast of everybody's login comes to.
pub fn judge_logins(forecasts: &Forecasts) -> Finding {
    let (wanted, unwanted, unclear) = forecasts.counts();
    let about = "logins";
    let all = forecasts.people.len();
    if unwanted == 0 && unclear == 0 {
        return Finding::ok(
            Kind::Logins,
            about,
            format!("the next login of all {all} people is as it should be"),
        );
    }
    let unclear_too = match unclear {
        0 => String::new(),
        unclear => format!(", and {unclear} cannot be told"),
    };
    Finding::warning(
        Kind::Logins,
        about,
        format!("of {all} next logins {wanted} would be as they should, {unwanted} would not{unclear_too}"),
        "see below, each with what to do",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{diagnosis::Level, domain::AccountSummary};

    fn account(localpart: &str, providers: &[&str]) -> Account {
        let server = ServerName::try_from("example.org").unwrap();
        let mxid = Mxid::parse(&format!("@{localpart}:example.org"), &server).unwrap();
        let id = |provider: &&str| ExternalId {
            auth_provider: (*provider).to_owned(),
            external_id: localpart.to_owned(),
        };
        Account {
            summary: AccountSummary {
                mxid,
                display_name: None,
                deactivated: false,
                locked: false,
                admin: false,
                guest: false,
                user_type: None,
            },
            threepids: BTreeSet::new(),
            external_ids: providers.iter().map(id).collect(),
            appservice: None,
            created_at: 0,
        }
    }

    fn judged(accounts: &[Account], offered: &[&str]) -> Option<(Kind, Level)> {
        let offered: Vec<String> = offered.iter().map(|one| (*one).to_owned()).collect();
        judge_external_ids(accounts, "oidc-New", &offered).map(|finding| (finding.kind, finding.level))
    }

    #[test]
    fn logins_of_a_provider_that_is_gone_are_orphans_and_those_of_another_one_are_not() {
        let (old, new, saml) =
            (account("a", &["oidc-Old"]), account("b", &["oidc-New"]), account("c", &["saml"]));
        assert_eq!(judged(&[], &["oidc-New"]), None);
        assert_eq!(judged(&[new.clone(), saml], &["oidc-New"]), Some((Kind::ExternalIds, Level::Ok)));
        let orphans = std::slice::from_ref(&old);
        assert_eq!(judged(orphans, &["oidc-New"]), Some((Kind::IdpIdChanged, Level::Error)));
        let some = [old, new];
        assert_eq!(judged(&some, &["oidc-New"]), Some((Kind::IdpIdChanged, Level::Warning)));
        assert_eq!(judged(&some, &["oidc-New", "oidc-Old"]), Some((Kind::ExternalIds, Level::Ok)));
    }

    #[test]
    fn a_field_is_replaced_by_its_claim_and_a_longer_name_is_left_alone() {
        let text = "{{ user.phone }} {{ user.phone_number }} {{ user.phone|upper }}";
        let claims = "{{ user.phone_number }} {{ user.phone_number }} {{ user.phone_number|upper }}";
        assert_eq!(replace_field(text, "phone", "phone_number"), claims);
        assert_eq!(
            replace_field("{{ user.first_name }}", "first_name", "given_name"),
            "{{ user.given_name }}"
        );
    }
}
