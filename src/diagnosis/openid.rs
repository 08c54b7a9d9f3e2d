//! The login between Synapse and Defguard: the keys, the issuer, the app, and what Synapse offers.

use url::Url;

use super::finding::{Finding, Kind, Level};
use crate::config::homeserver_yaml::Facts;

const DEFGUARD: &str = "Defguard";
const SYNAPSE: &str = "Synapse";
const LOGIN: &str = "login";

/// What Defguard says about itself as an OpenID provider, spelled as it spells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Discovery {
    /// Who signs.
    pub issuer: String,
    /// The endpoints by their key, which is that of homeserver.yaml as well.
    pub endpoints: Vec<(&'static str, String)>,
}

/// An OpenID app in Defguard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct App {
    /// What identifies it.
    pub client_id: String,
    /// What people see.
    pub name: String,
    /// Where a login may lead back to.
    pub redirect_uris: Vec<String>,
    /// The scopes that a login may ask for.
    pub scopes: Vec<String>,
    /// Whether anybody can log in by it.
    pub enabled: bool,
}

/// The ways in which Synapse lets people log in (`GET /_matrix/client/v3/login`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoginFlows {
    /// Whether with a password.
    pub password: bool,
    /// The providers, by the auth provider of their external ids.
    pub providers: Vec<String>,
}

/// Where the running Synapse sends people who want to log in, and with what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SsoRedirect {
    /// The authorization endpoint.
    pub authorization_endpoint: String,
    /// The app that it names.
    pub client_id: String,
    /// Where it wants them back.
    pub redirect_uri: String,
    /// What it asks to know of them.
    pub scopes: Vec<String>,
}

impl SsoRedirect {
    /// Reads the address of the redirect; `None` if it is none of an OpenID login.
    pub fn read(location: &str) -> Option<Self> {
        let mut url = Url::parse(location).ok()?;
        let get =
            |key: &str| url.query_pairs().find(|(name, _)| name == key).map(|(_, value)| value.into_owned());
        let (client_id, redirect_uri, scope) = (get("client_id")?, get("redirect_uri")?, get("scope")?);
        url.set_query(None);
        Some(Self {
            authorization_endpoint: url.to_string(),
            client_id,
            redirect_uri,
            scopes: scope.split_whitespace().map(str::to_owned).collect(),
        })
    }
}

/// What the app in Defguard has to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// What identifies it.
    pub client_id: String,
    /// Where Synapse wants people back.
    pub redirect_uri: Option<String>,
    /// What Synapse asks to know of them.
    pub scopes: Vec<String>,
}

/// Whether Defguard publishes an RSA key, of which it has `keys`.
pub fn judge_keys(keys: usize) -> Finding {
    if keys > 0 {
        return Finding::ok(
            Kind::NoSigningKey,
            DEFGUARD,
            "signs logins with an RSA key (RS256) that it publishes",
        );
    }
    Finding::error(
        Kind::NoSigningKey,
        DEFGUARD,
        "publishes no key: it signs logins with the secret of each app (HMAC)",
        "give Defguard an RSA key: in 2.x take DEFGUARD_HMAC out of its environment; in 1.x `openssl genrsa -out \
         openid.pem 2048`, and the path of that file in DEFGUARD_OPENID_KEY; then restart it",
    )
    .because("Synapse looks for a published key to check the signature with, and every login ends with an error")
}

/// Whether homeserver.yaml names the issuer and the endpoints as Defguard does.
pub fn judge_discovery(discovery: &Discovery, facts: Option<&Facts>) -> Vec<Finding> {
    let issuer = &discovery.issuer;
    let Some(facts) = facts else {
        return vec![Finding::ok(Kind::IssuerDiffers, DEFGUARD, format!("calls itself {issuer} at a login"))];
    };
    let mut findings = Vec::new();
    match &facts.entry.issuer {
        Some(given) if given.value == *issuer => {
            findings.push(Finding::ok(
                Kind::IssuerDiffers,
                LOGIN,
                format!("homeserver.yaml names the issuer as Defguard does, {issuer}"),
            ));
        }
        Some(given) => {
            let how = if given.value.trim_end_matches('/') == issuer.trim_end_matches('/') {
                "only the slash at the end is another"
            } else {
                "that is another address"
            };
            findings.push(
                Finding::error(
                    Kind::IssuerDiffers,
                    LOGIN,
                    format!(
                        "the issuer in homeserver.yaml is {}, and Defguard calls itself {issuer}: {how}",
                        given.value
                    ),
                    format!("write `issuer: \"{issuer}\"` in the provider and restart Synapse"),
                )
                .because(
                    "Synapse compares it with the one in each token, letter by letter, and refuses the login",
                )
                .at(&given.at),
            );
        }
        None => findings.push(
            Finding::error(
                Kind::IssuerDiffers,
                LOGIN,
                "the provider in homeserver.yaml has no issuer",
                format!("write `issuer: \"{issuer}\"` in it and restart Synapse"),
            )
            .because("Synapse does not start with it")
            .at(&facts.idp_id.at),
        ),
    }
    if facts.entry.discover {
        return findings;
    }
    for (key, here) in &discovery.endpoints {
        match facts.entry.endpoints.iter().find(|(given, _)| given == key) {
            Some((_, given)) if given.value == *here => {}
            Some((_, given)) => findings.push(
                Finding::warning(
                    Kind::EndpointDiffers,
                    LOGIN,
                    format!("{key} in homeserver.yaml is {}, and Defguard's is {here}", given.value),
                    format!("write `{key}: \"{here}\"` in the provider, unless it is led there on purpose"),
                )
                .because(
                    "Synapse talks to what is written in homeserver.yaml, since `discover` is false there",
                )
                .at(&given.at),
            ),
            // Synapse needs this one only for claims that are not in the token.
            None if *key == "userinfo_endpoint" => {}
            None => findings.push(
                Finding::error(
                    Kind::EndpointDiffers,
                    LOGIN,
                    format!("the provider in homeserver.yaml has no {key}, and `discover` is false"),
                    format!("write `{key}: \"{here}\"` in it and restart Synapse"),
                )
                .because("Synapse cannot find it out, and logins end with an error")
                .at(&facts.idp_id.at),
            ),
        }
    }
    findings
}

/// Whether the running Synapse does what homeserver.yaml says, and leads to this Defguard.
pub fn judge_running(
    redirect: &SsoRedirect,
    facts: Option<&Facts>,
    discovery: Option<&Discovery>,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    let given = facts.and_then(|facts| facts.entry.client_id.as_ref());
    let differs = |what: &str, running: &str, written: &str| {
        Finding::warning(
            Kind::NotRestarted,
            SYNAPSE,
            format!("runs with {what} {running}, and homeserver.yaml says {written}"),
            "restart Synapse; if that was done, see whether synapse.homeserver_config names the files that it really \
             reads, in its order",
        )
        .because("what is checked here is the file; a login goes by what Synapse has read")
    };
    if let Some(given) = given
        && given.value != redirect.client_id
    {
        findings.push(differs("the client id", &redirect.client_id, &given.value).at(&given.at));
    }
    if let Some(wanted) = facts.and_then(Facts::redirect_uri)
        && wanted != redirect.redirect_uri
    {
        findings.push(differs("the redirect URI", &redirect.redirect_uri, &wanted));
    }
    let own = discovery.and_then(|discovery| {
        discovery.endpoints.iter().find(|(key, _)| *key == "authorization_endpoint").map(|(_, url)| url)
    });
    // With homeserver.yaml at hand this was said with the place.
    if let Some(own) = own
        && facts.is_none()
        && *own != redirect.authorization_endpoint
    {
        findings.push(
            Finding::warning(
                Kind::EndpointDiffers,
                LOGIN,
                format!(
                    "Synapse sends people to {}, and Defguard's own address is {own}",
                    redirect.authorization_endpoint
                ),
                "see whether the provider in homeserver.yaml and defguard.url lead to the same Defguard",
            )
            .because("accounts are made for the people of the one, and logins come from the other"),
        );
    }
    findings
}

/// Whether Synapse offers the login of `auth_provider`.
pub fn judge_offer(flows: &LoginFlows, auth_provider: &str) -> Finding {
    if flows.providers.iter().any(|offered| offered == auth_provider) {
        return Finding::ok(Kind::Provider, LOGIN, format!("Synapse offers {auth_provider}"));
    }
    let offered = match flows.providers.as_slice() {
        [] => "offers no such login at all".to_owned(),
        some => format!("offers {}", some.join(", ")),
    };
    Finding::error(
        Kind::ProviderNotOffered,
        LOGIN,
        format!("Synapse does not offer {auth_provider}; it {offered}"),
        "write the provider's idp_id as it stands in homeserver.yaml into synapse.idp_id; or add the provider there \
         (`setup oidc` writes it) and restart Synapse",
    )
    .because("the external ids that are put on accounts belong to a login that nobody can use")
}

/// Whether the app in Defguard is as Synapse needs it.
pub fn judge_app(apps: &[App], wanted: &Wanted, facts: Option<&Facts>) -> Vec<Finding> {
    let at = facts.and_then(|facts| facts.entry.client_id.as_ref()).map(|given| &given.at);
    let placed = |finding: Finding| match at {
        Some(at) => finding.at(at),
        None => finding,
    };
    let Some(app) = apps.iter().find(|app| app.client_id == wanted.client_id) else {
        let error = Finding::error(
            Kind::AppMissing,
            LOGIN,
            format!("Defguard has no OpenID app with the client id {} that Synapse uses", wanted.client_id),
            "`setup oidc` finds or makes the app and says what to write into homeserver.yaml",
        );
        return vec![placed(error.because("Defguard refuses every login that comes from Synapse"))];
    };
    let name = &app.name;
    let mut findings = Vec::new();
    if !app.enabled {
        findings.push(
            Finding::error(
                Kind::AppDisabled,
                LOGIN,
                format!("the OpenID app {name} in Defguard is disabled"),
                format!("enable {name} in Defguard, under OpenID Apps"),
            )
            .because("Defguard refuses every login that comes from Synapse"),
        );
    }
    if let Some(uri) = &wanted.redirect_uri
        && !app.redirect_uris.contains(uri)
    {
        findings.push(
            Finding::error(
                Kind::AppRedirectUri,
                LOGIN,
                format!(
                    "the OpenID app {name} leads back to {}, and Synapse wants people back at {uri}",
                    if app.redirect_uris.is_empty() {
                        "nowhere".to_owned()
                    } else {
                        app.redirect_uris.join(", ")
                    }
                ),
                format!("add {uri} to the redirect URLs of {name} in Defguard, or run `setup oidc`"),
            )
            .because("Defguard compares it letter by letter, and people never come back from the login"),
        );
    }
    let lacks: Vec<&str> = wanted
        .scopes
        .iter()
        .map(String::as_str)
        .filter(|scope| !app.scopes.iter().any(|has| has == scope))
        .collect();
    if !lacks.is_empty() {
        findings.push(
            Finding::error(
                Kind::AppScopes,
                LOGIN,
                format!("the OpenID app {name} lacks the scopes {}", lacks.join(", ")),
                format!(
                    "add them to {name} in Defguard, or take them out of the provider's `scopes` in homeserver.yaml (and \
                     restart Synapse)"
                ),
            )
            .because("a login that asks for a scope which the app does not have is refused (invalid_scope)"),
        );
    }
    if findings.iter().all(|finding| finding.level == Level::Ok) {
        let fine =
            format!("the OpenID app {name} in Defguard is enabled and has Synapse's redirect URI and scopes");
        findings.push(Finding::ok(Kind::App, LOGIN, fine));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_is_read_and_what_is_none_of_a_login_is_not() {
        let location = "https://dg.example.com/api/v1/oauth/authorize?response_type=code&client_id=abc\
             &redirect_uri=https%3A%2F%2Fm.example.com%2F_synapse%2Fclient%2Foidc%2Fcallback&scope=openid+profile&state=x";
        let redirect = SsoRedirect::read(location).unwrap();
        assert_eq!(redirect.authorization_endpoint, "https://dg.example.com/api/v1/oauth/authorize");
        assert_eq!(redirect.client_id, "abc");
        assert_eq!(redirect.redirect_uri, "https://m.example.com/_synapse/client/oidc/callback");
        assert_eq!(redirect.scopes, ["openid", "profile"]);
        for other in ["/login", "https://dg.example.com/", "https://x/?client_id=a&scope=b"] {
            assert_eq!(SsoRedirect::read(other), None);
        }
    }

    #[test]
    fn without_homeserver_yaml_the_running_synapse_tells_whether_it_leads_to_this_defguard() {
        let redirect = |endpoint: &str| SsoRedirect {
            authorization_endpoint: endpoint.to_owned(),
            client_id: String::new(),
            redirect_uri: String::new(),
            scopes: Vec::new(),
        };
        let discovery = Discovery {
            issuer: "https://a/".to_owned(),
            endpoints: vec![("authorization_endpoint", "https://a/authorize".to_owned())],
        };
        assert_eq!(judge_running(&redirect("https://a/authorize"), None, Some(&discovery)), []);
        let found = judge_running(&redirect("https://b/authorize"), None, Some(&discovery));
        assert_eq!(found[0].kind, Kind::EndpointDiffers);
    }
}
