//! `check` finds what is wrong with the way in which Defguard, Synapse and the service are joined, one thing at a time.

use std::{fs, time::Duration};

use serde_json::{Value, json};

use crate::{
    World,
    support::{
        defguard::NewPerson,
        synapse::{Options, Synapse, defguard_provider, user_path},
    },
};

/// A config that takes everything from a copy of homeserver.yaml, of which more can be changed.
struct Joined {
    world: World,
    yaml: Value,
    more: String,
}

impl Joined {
    async fn new(name: &'static str) -> Self {
        Self::of(World::new(name).await)
    }

    fn of(world: World) -> Self {
        let text = fs::read_to_string(world.synapse.config_file()).unwrap();
        let mut yaml: Value = serde_json::from_str(&text).unwrap();
        // Beside what a test changes, nothing is to be found.
        yaml["password_config"] = json!({"enabled": false});
        let mapping = &mut yaml["oidc_providers"][0]["user_mapping_provider"]["config"];
        mapping["display_name_template"] = json!("{{ user.given_name }} {{ user.family_name }}");
        Self { world, yaml, more: String::new() }
    }

    fn entry(&mut self) -> &mut Value {
        &mut self.yaml["oidc_providers"][0]
    }

    /// All findings, with the config and the copy of homeserver.yaml as they are now.
    async fn findings(&self) -> Vec<Value> {
        let world = &self.world;
        let file = world.write("homeserver.yaml", &serde_json::to_string_pretty(&self.yaml).unwrap());
        world.configure("");
        let config = fs::read_to_string(world.config()).unwrap();
        let from = config.find("[templates]").unwrap();
        let to = config.find("[schedule]").unwrap();
        let config = format!(
            "{}homeserver_config = [\"{}\"]\n\n{}{}",
            config[..from].trim_end().to_owned() + "\n",
            file.display(),
            &config[to..],
            self.more,
        );
        world.write("config.toml", &config);
        let shown = world.run(&["check", "--json"]).await;
        assert!(matches!(shown.code, 0 | 5), "{shown:?}");
        shown.json().as_array().unwrap().clone()
    }

    /// The one finding that is not as it should be, which is of this kind.
    async fn only(&self, kind: &str, level: &str) -> Value {
        let mut wrong = self.findings().await;
        wrong.retain(|finding| finding["level"] != "ok");
        assert_eq!(wrong.len(), 1, "{wrong:#?}");
        let finding = wrong.remove(0);
        assert_eq!((&finding["kind"], &finding["level"]), (&json!(kind), &json!(level)), "{finding:#}");
        for part in ["found", "why", "mend"] {
            assert!(finding[part].as_str().is_some_and(|text| !text.is_empty()), "no {part}: {finding:#}");
        }
        finding
    }

    /// The same for what stands in homeserver.yaml: its place is said.
    async fn only_in_the_file(&self, kind: &str, level: &str, key: &str) -> Value {
        let finding = self.only(kind, level).await;
        let file = finding["file"].as_str().unwrap();
        let line = finding["line"].as_u64().unwrap() as usize;
        let text = fs::read_to_string(file).unwrap();
        let line = text.lines().nth(line - 1).unwrap();
        assert!(line.contains(key.rsplit('.').next().unwrap()), "{line}: {finding:#}");
        assert_eq!(finding["key"], json!(key));
        finding
    }
}

fn mend(finding: &Value) -> &str {
    finding["mend"].as_str().unwrap()
}

#[tokio::test]
async fn nothing_is_found_where_all_is_joined_as_it_should_be() {
    let joined = Joined::new("joined").await;
    let mut wrong = joined.findings().await;
    wrong.retain(|finding| finding["level"] != "ok");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn a_defguard_that_publishes_no_key() {
    let joined = Joined::new("hmac").await;
    joined.world.defguard.state().provider.hmac = true;
    let finding = joined.only("no_signing_key", "error").await;
    assert!(mend(&finding).contains("DEFGUARD_OPENID_KEY"), "{finding:#}");
}

#[tokio::test]
async fn an_issuer_that_lacks_its_slash() {
    let mut joined = Joined::new("issuer").await;
    joined.entry()["issuer"] = json!("http://127.0.0.1:9");
    let finding = joined.only_in_the_file("issuer_differs", "error", "issuer").await;
    assert!(mend(&finding).contains("issuer: \"http://127.0.0.1:9/\""), "{finding:#}");
}

#[tokio::test]
async fn an_endpoint_that_is_not_defguards() {
    let mut joined = Joined::new("endpoint").await;
    joined.entry()["jwks_uri"] = json!("http://127.0.0.1:9/keys");
    let finding = joined.only_in_the_file("endpoint_differs", "warning", "jwks_uri").await;
    assert!(mend(&finding).contains("api/v1/oauth/discovery/keys"), "{finding:#}");
}

#[tokio::test]
async fn an_issuer_without_https_that_synapse_refuses() {
    let mut joined = Joined::new("https").await;
    joined.entry()["skip_verification"] = json!(false);
    joined.only_in_the_file("insecure_issuer", "error", "issuer").await;
}

#[tokio::test]
async fn an_app_that_defguard_does_not_have() {
    let joined = Joined::new("noapp").await;
    joined.world.defguard.state().provider.apps.clear();
    let finding = joined.only_in_the_file("app_missing", "error", "client_id").await;
    assert!(mend(&finding).contains("setup oidc"), "{finding:#}");
}

#[tokio::test]
async fn an_app_that_is_disabled() {
    let joined = Joined::new("appoff").await;
    joined.world.defguard.state().provider.apps[0].enabled = false;
    joined.only("app_disabled", "error").await;
}

#[tokio::test]
async fn an_app_that_leads_back_elsewhere() {
    let joined = Joined::new("appback").await;
    let back = "https://matrix.example.com/_synapse/client/oidc/callback/";
    joined.world.defguard.state().provider.apps[0].redirect_uri = vec![back.to_owned()];
    let finding = joined.only("app_redirect_uri", "error").await;
    let wanted = format!("{}/_synapse/client/oidc/callback", joined.world.synapse.url());
    assert!(mend(&finding).contains(&wanted), "{finding:#}");
}

#[tokio::test]
async fn an_app_that_lacks_a_scope() {
    let joined = Joined::new("appscope").await;
    joined.world.defguard.state().provider.apps[0].scope = vec!["openid".to_owned(), "email".to_owned()];
    let finding = joined.only("app_scopes", "error").await;
    assert!(finding["found"].as_str().unwrap().contains("profile, phone"), "{finding:#}");
}

#[tokio::test]
async fn a_provider_that_synapse_does_not_offer() {
    let mut joined = Joined::new("offer").await;
    joined.entry()["idp_id"] = json!("Elsewhere");
    let finding = joined.only("provider_not_offered", "error").await;
    assert!(finding["found"].as_str().unwrap().contains("oidc-Elsewhere"), "{finding:#}");
}

#[tokio::test]
async fn a_synapse_that_was_not_restarted() {
    let mut joined = Joined::new("restart").await;
    joined.entry()["client_id"] = json!("another");
    joined.world.defguard.state().provider.apps[0].client_id = "another".to_owned();
    let finding = joined.only_in_the_file("not_restarted", "warning", "client_id").await;
    assert!(mend(&finding).starts_with("restart Synapse"), "{finding:#}");
}

#[tokio::test]
async fn an_idp_id_that_was_changed_after_accounts_were_made() {
    let mut provider = defguard_provider("http://127.0.0.1:9", "synapse", "secret");
    provider["idp_id"] = json!("Renamed");
    let synapse =
        Synapse::start(Options { oidc_provider: Some(provider), ..Options::default() }).await.unwrap();
    let ids = json!([{"auth_provider": "oidc-Defguard", "external_id": "alice"}]);
    assert_eq!(synapse.put_account("alice", &json!({"external_ids": ids})).await.status, 201);
    let joined = Joined::of(World::on("idp", Box::leak(Box::new(synapse))).await);
    let finding = joined.only("idp_id_changed", "error").await;
    assert!(mend(&finding).contains("idp_id: Defguard"), "{finding:#}");
    joined.world.synapse.stop();
}

#[tokio::test]
async fn existing_users_that_are_linked_by_name() {
    let mut joined = Joined::new("existing").await;
    joined.entry()["allow_existing_users"] = json!(true);
    joined.only_in_the_file("allow_existing_users", "warning", "allow_existing_users").await;
}

#[tokio::test]
async fn profile_updates_that_quarrel_with_the_display_name_policy() {
    let mut joined = Joined::new("update").await;
    joined.yaml["sso"] = json!({"update_profile_information": true});
    let finding =
        joined.only_in_the_file("profile_updates", "warning", "sso.update_profile_information").await;
    assert!(mend(&finding).contains("display_name = \"enforce\""), "{finding:#}");
    joined.more = "[accounts]\ndisplay_name = \"enforce\"\n".to_owned();
    let finding = joined.only("profile_updates", "warning").await;
    assert!(finding["why"].as_str().unwrap().contains("back and forth"), "{finding:#}");
}

#[tokio::test]
async fn registration_that_is_open() {
    let mut joined = Joined::new("open").await;
    joined.yaml["enable_registration"] = json!(true);
    joined.only_in_the_file("open_registration", "warning", "enable_registration").await;
}

#[tokio::test]
async fn a_provisioned_address_that_permits_a_password_reset_around_defguard() {
    let mut joined = Joined::new("reset").await;
    joined.yaml.as_object_mut().unwrap().remove("password_config");
    joined.yaml["email"] = json!({"smtp_host": "localhost", "notif_from": "Matrix <matrix@example.com>"});
    let finding = joined.only_in_the_file("password_reset", "warning", "email").await;
    assert!(mend(&finding).contains("email = \"ignore\""), "{finding:#}");
    joined.more = "[accounts]\nemail = \"ignore\"\n".to_owned();
    joined.only("local_passwords", "advice").await;
}

#[tokio::test]
async fn passwords_that_synapse_keeps() {
    let mut joined = Joined::new("passwords").await;
    joined.yaml["password_config"] = json!({"enabled": true});
    joined.only_in_the_file("local_passwords", "advice", "password_config.enabled").await;
    // Only to confirm something, or nowhere kept: no way in.
    for harmless in [json!({"enabled": "only_for_reauth"}), json!({"localdb_enabled": false})] {
        joined.yaml["password_config"] = harmless;
        let wrong = joined.findings().await.into_iter().find(|finding| finding["level"] != "ok");
        assert_eq!(wrong, None);
    }
}

#[tokio::test]
async fn a_client_that_gets_tokens_without_a_question() {
    let mut joined = Joined::new("whitelist").await;
    for bad in ["https://", "https://app.example.com", "http://app.example.com/"] {
        joined.yaml["sso"] = json!({"client_whitelist": ["https://fine.example.com/", bad]});
        let finding = joined.only("client_whitelist", "warning").await;
        assert!(finding["found"].as_str().unwrap().contains(bad), "{finding:#}");
        assert!(finding["line"].is_u64(), "{finding:#}");
    }
}

#[tokio::test]
async fn sessions_that_end() {
    let mut joined = Joined::new("sessions").await;
    joined.yaml["session_lifetime"] = json!("24h");
    joined.only_in_the_file("session_lifetime", "warning", "session_lifetime").await;
}

#[tokio::test]
async fn an_open_provider_though_everybody_is_provisioned() {
    let mut joined = Joined::new("only").await;
    joined.world.defguard.add_person(NewPerson::named("only-ann"));
    let wrong = joined.findings().await.into_iter().find(|finding| finding["level"] != "ok");
    assert_eq!(wrong, None, "while somebody is not provisioned, nothing is advised");
    joined.world.run(&["sync"]).await.ends_with(0);
    let finding = joined.only("provisioned_only", "advice").await;
    assert!(mend(&finding).contains("enable_registration: false"), "{finding:#}");
    joined.entry()["enable_registration"] = json!(false);
    let said = joined.findings().await.into_iter().find(|finding| finding["kind"] == "provisioned_only");
    assert_eq!(said.unwrap()["level"], "ok");
    joined.world.defguard.add_person(NewPerson::named("only-bob"));
    joined.only_in_the_file("provisioned_only", "warning", "enable_registration").await;
}

#[tokio::test]
async fn a_template_field_that_is_empty_at_a_login() {
    let mut joined = Joined::new("empty").await;
    joined.world.defguard.add_person(NewPerson::named("empty-ann"));
    joined.entry()["user_mapping_provider"]["config"]["display_name_template"] =
        json!("{{ user.first_name }} {{ user.last_name }}");
    let finding = joined.only_in_the_file("login_differs", "warning", "display_name_template").await;
    assert!(finding["why"].as_str().unwrap().contains("`user.first_name`"), "{finding:#}");
    assert!(mend(&finding).contains("{{ user.given_name }} {{ user.family_name }}"), "{finding:#}");
}

#[tokio::test]
async fn a_token_of_somebody_who_is_no_server_admin() {
    let joined = Joined::new("rights").await;
    let user = joined.world.synapse.register_user("rights-user", false).await;
    joined.world.write("synapse-token", &user.token);
    let findings = joined.findings().await;
    let wrong = findings.iter().find(|finding| finding["kind"] == "homeserver").unwrap();
    assert_eq!(wrong["level"], "error");
    assert!(mend(wrong).contains("admin"), "{wrong:#}");
}

#[tokio::test]
async fn a_token_of_an_account_that_somebodys_login_opens() {
    let joined = Joined::new("owned").await;
    let admin = joined.world.synapse.register_user("owned-admin", true).await;
    let ids = json!([{"auth_provider": "oidc-Defguard", "external_id": "owned-ann"}]);
    let reply = joined.world.synapse.admin_put(&user_path(&admin.mxid), &json!({"external_ids": ids})).await;
    assert_eq!(reply.status, 200);
    joined.world.write("synapse-token", &admin.token);
    let finding = joined.only("own_account_login", "warning").await;
    assert!(finding["found"].as_str().unwrap().contains("owned-ann"), "{finding:#}");
}

#[tokio::test]
async fn a_token_of_an_account_that_the_templates_give_to_somebody() {
    let joined = Joined::new("wanted").await;
    let admin = joined.world.synapse.register_user("wanted-admin", true).await;
    joined.world.write("synapse-token", &admin.token);
    joined.world.defguard.add_person(NewPerson::named("wanted-admin"));
    let findings = joined.findings().await;
    let wrong: Vec<&Value> = findings.iter().filter(|finding| finding["level"] != "ok").collect();
    assert_eq!(wrong.len(), 1, "{wrong:#?}");
    assert_eq!(wrong[0]["kind"], "own_account_wanted");
}

#[tokio::test]
async fn an_api_token_without_a_licence() {
    let world = World::new("licence").await;
    world.defguard.set_licence(true);
    let token = world.defguard.token_for("admin");
    world.write("defguard-token", &token);
    let config = fs::read_to_string(world.config()).unwrap();
    let home = world.home.path().display();
    let session = format!("username = \"admin\"\npassword_file = \"{home}/defguard-password\"");
    assert!(config.contains(&session));
    world.write("config.toml", &config.replace(&session, &format!("token_file = \"{home}/defguard-token\"")));
    let licence = |findings: Value, kind: &str| {
        let all = findings.as_array().unwrap();
        all.iter().find(|finding| finding["kind"] == kind).unwrap().clone()
    };
    let findings = world.run(&["check", "--json"]).await.ends_with(0).json();
    assert_eq!(licence(findings, "licence")["found"], "has a licence, which API tokens need");
    world.defguard.set_licence(false);
    let findings = world.run(&["check", "--json"]).await.ends_with(5).json();
    let finding = licence(findings, "directory");
    assert!(mend(&finding).contains("licence"), "{finding:#}");
}

#[tokio::test]
async fn clocks_that_are_too_far_apart_for_a_login() {
    let joined = Joined::new("clock").await;
    joined.world.defguard.time().advance(Duration::from_secs(40));
    let findings = joined.findings().await;
    let clocks = |findings: &[Value], level: &str| {
        let all = findings.iter().filter(|finding| finding["kind"] == "clock" && finding["level"] == level);
        all.map(|finding| finding["found"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(clocks(&findings, "warning").len(), 2, "{findings:#?}");
    joined.world.defguard.time().advance(Duration::from_secs(100));
    let findings = joined.findings().await;
    let ahead = clocks(&findings, "error");
    assert!(ahead[0].contains("ahead of Synapse's"), "{ahead:?}");
}

#[tokio::test]
async fn no_finding_quotes_a_secret_of_homeserver_yaml() {
    let joined = Joined::new("quiet").await;
    let findings = serde_json::to_string(&joined.findings().await).unwrap();
    for secret in [joined.world.synapse.admin_token(), "registration-in-tests", "macaroons-in-tests"] {
        assert!(!findings.contains(secret), "{findings}");
    }
}
