//! The config from the outside: shipped files load, mistakes are all found and placed, secrets never show.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use chrono::{DateTime, Utc};
use defguard_synapse_sync::{
    config::{self, DefguardAuth, Environment, Finding, LogFormat, Settings, homeserver_yaml},
    domain::{CreateMode, FieldPolicy, OnConflict},
};
use proptest::prelude::*;
use secrecy::ExposeSecret as _;
use tempfile::TempDir;

/// Marks every secret; nothing that is shown may contain it.
const MARK: &str = "hunter2";

fn now() -> DateTime<Utc> {
    "2026-11-02T12:00:00Z".parse().unwrap()
}

/// A directory with secrets and whatever else a config names.
struct Ground {
    root: TempDir,
}

impl Ground {
    fn new() -> Self {
        let ground = Self { root: TempDir::new().unwrap() };
        for name in ["defguard-password", "defguard-token", "synapse-token", "webhook-token"] {
            ground.secret(name, &format!("{MARK}-{name}\n"));
        }
        ground.secret("defguard-totp-secret", "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP\n");
        // As the unit hands them over: what is not there is a blank line.
        for (name, text) in [
            ("defguard-password", MARK),
            ("synapse-token", MARK),
            ("defguard-token", "\n"),
            ("defguard-totp-secret", ""),
        ] {
            ground.secret(&format!("credentials/{name}"), text);
        }
        ground
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    fn secret(&self, name: &str, text: &str) -> PathBuf {
        let path = self.write(name, text);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
        path
    }

    /// `$` stands for the directory.
    fn check(&self, text: &str) -> Result<(Settings, Vec<Finding>), Vec<Finding>> {
        self.check_in(text, &Environment::empty())
    }

    fn check_in(&self, text: &str, env: &Environment) -> Result<(Settings, Vec<Finding>), Vec<Finding>> {
        let text = text.replace('$', self.root.path().to_str().unwrap());
        config::check(&text, Path::new("config.toml"), env, now())
    }

    /// A config that must be without errors and warnings.
    fn good(&self, text: &str) -> Settings {
        self.good_in(text, &Environment::empty())
    }

    /// The same with systemd's credentials.
    fn good_with_credentials(&self, text: &str) -> Settings {
        let directory = self.path("credentials").display().to_string();
        self.good_in(text, &Environment::empty().with("CREDENTIALS_DIRECTORY", directory))
    }

    fn good_in(&self, text: &str, env: &Environment) -> Settings {
        let (settings, findings) =
            self.check_in(text, env).unwrap_or_else(|findings| panic!("{}", show(&findings)));
        assert_eq!(findings, [], "{}", show(&findings));
        settings
    }

    fn errors(&self, text: &str) -> String {
        self.shown(&self.check(text).expect_err("this config has a mistake"))
    }

    /// Findings without the directory's random name.
    fn shown(&self, findings: &[Finding]) -> String {
        show(findings).replace(self.root.path().to_str().unwrap(), "$")
    }
}

fn show(findings: &[Finding]) -> String {
    findings.iter().map(|finding| format!("{finding}\n")).collect()
}

const SMALL: &str = r#"
[defguard]
url = "https://defguard.example.com"
username = "matrix-sync"
password_file = "$/defguard-password"
[synapse]
url = "http://127.0.0.1:8008"
token_file = "$/synapse-token"
[templates]
localpart_template = "{{ user.preferred_username }}"
"#;

/// `SMALL` without `[templates]`, with the homeserver's own files.
fn small_with_files(ground: &Ground, files: &[&str], idp_id: Option<&str>) -> String {
    let paths: Vec<String> = files.iter().map(|file| format!("{:?}", ground.path(file))).collect();
    let more = format!("homeserver_config = [{}]\n", paths.join(", "));
    let idp_id = idp_id.map_or_else(String::new, |id| format!("idp_id = {id:?}\n"));
    format!("{}{more}{idp_id}", SMALL.split("[templates]").next().unwrap())
}

// ---- shipped files ----

/// A config of the documentation, with its paths led into a test directory.
fn redirected(text: &str) -> String {
    text.replace("\"/etc/defguard-synapse-sync", "\"$")
}

#[test]
fn every_config_that_we_ship_loads_without_a_finding() {
    let ground = Ground::new();
    let mut seen = 0;
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("config")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            continue;
        }
        ground.good_with_credentials(&redirected(&fs::read_to_string(&path).unwrap()));
        seen += 1;
    }
    assert!(seen > 0);
}

#[test]
fn the_defaults_in_the_example_are_the_defaults() {
    let ground = Ground::new();
    let example =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config/config.example.toml"));
    let example = redirected(&example.unwrap());
    let spelled_out: String = example
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(key) if key.starts_with(|c: char| c.is_ascii_lowercase()) => format!("{key}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    assert!(spelled_out.lines().filter(|line| line.contains(" = ")).count() > 25);
    // Only the place where a template was written can differ.
    let values = |text: &str| {
        let settings = ground.good_with_credentials(text);
        let Settings { defguard, scope, synapse, templates, accounts, schedule, state, control, log, .. } =
            settings;
        let templates =
            [Some(templates.subject), templates.localpart, templates.display_name, templates.email];
        let templates = templates.map(|template| template.unwrap().text);
        format!("{:#?}", (defguard, scope, synapse, templates, accounts, schedule, state, control, log))
    };
    assert_eq!(values(&example), values(&spelled_out));
}

#[test]
fn the_homeservers_own_config_can_be_a_systemd_credential() {
    let ground = Ground::new();
    ground.secret("credentials/homeserver.yaml", HOMESERVER);
    let small = small_with_files(&ground, &["x"], None);
    let file = format!("{:?}", ground.path("x"));
    let small = small.replace(&file, "\"$CREDENTIALS_DIRECTORY/homeserver.yaml\"");
    let small = small.replace("\"$/", &format!("\"{}/", ground.root.path().display()));
    let check = |env: &Environment| config::check(&small, Path::new("config.toml"), env, now());
    let findings = check(&Environment::empty()).unwrap_err();
    assert!(show(&findings).contains("LoadCredential=homeserver.yaml:"), "{}", show(&findings));
    let small = small.lines().filter(|line| !line.contains("_file = ")).collect::<Vec<_>>().join("\n");
    let env =
        Environment::empty().with("CREDENTIALS_DIRECTORY", ground.path("credentials").display().to_string());
    let (settings, _) = config::check(&small, Path::new("config.toml"), &env, now())
        .unwrap_or_else(|findings| panic!("{}", show(&findings)));
    assert_eq!(settings.synapse.auth_provider, "oidc-Defguard");
}

/// Every block of TOML in the README and in `docs/` is a whole config, or its first line says `# fragment`, and then it
/// belongs into one: it is put into a small config in the place of what that has.
#[test]
fn every_config_in_the_documentation_loads() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = vec![root.join("README.md")];
    files.extend(fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path()));
    let pages: Vec<String> =
        files.iter().filter(|file| file.is_file()).map(|file| fs::read_to_string(file).unwrap()).collect();
    let blocks: Vec<&str> = pages
        .iter()
        .flat_map(|page| page.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()))
        .collect();
    assert!(blocks.len() > 5, "the documentation shows hardly any config");
    let ground = Ground::new();
    ground.secret("credentials/homeserver.yaml", HOMESERVER);
    ground.write("homeserver.yaml", HOMESERVER);
    fs::create_dir(ground.path("conf.d")).unwrap();
    ground.write("conf.d/server_name.yaml", "server_name: example.com\n");
    for block in blocks {
        let text = redirected(block).replace("\"/etc/matrix-synapse", "\"$");
        let text = text.replace("$CREDENTIALS_DIRECTORY/", "$/credentials/");
        if block.starts_with("# fragment") {
            ground.good(&completed(&text));
        } else {
            ground.good_with_credentials(&text);
        }
    }
}

/// A fragment with what it lacks from `SMALL`, key by key.
fn completed(fragment: &str) -> String {
    let mut whole: toml::Table = SMALL.parse().unwrap();
    let fragment: toml::Table = fragment.parse().unwrap();
    if fragment.get("synapse").is_some_and(|synapse| synapse.get("homeserver_config").is_some()) {
        whole.remove("templates");
    }
    if fragment.get("defguard").is_some_and(|defguard| defguard.get("token_file").is_some()) {
        let defguard = whole.get_mut("defguard").unwrap().as_table_mut().unwrap();
        defguard.remove("username");
        defguard.remove("password_file");
    }
    for (name, table) in fragment {
        let into = whole.entry(name).or_insert_with(|| toml::Table::new().into()).as_table_mut().unwrap();
        into.extend(table.as_table().unwrap().clone());
    }
    whole.to_string()
}

// ---- webhook and notices ----

#[test]
fn the_webhook_and_the_notices_are_off_unless_an_address_and_a_room_are_given() {
    let ground = Ground::new();
    let settings = ground.good(SMALL);
    assert!(settings.webhook.is_none() && settings.notices.is_none());
    ground.secret("webhook-token", &format!("{MARK}-webhook-token\n"));
    let webhook = "[webhook]\nlisten = \"127.0.0.1:9118\"\ntoken_file = \"$/webhook-token\"\n";
    let notices = "[notices]\nroom = \"#ops:example.com\"\nunusable_after = \"2h\"\n";
    let settings = ground.good(&format!("{SMALL}{webhook}{notices}"));
    let webhook_settings = settings.webhook.as_ref().unwrap();
    assert_eq!(webhook_settings.url.as_str(), "http://127.0.0.1:9118/webhook/defguard");
    assert_eq!(webhook_settings.delay, Duration::from_millis(500));
    assert_eq!(webhook_settings.token.expose_secret(), "hunter2-webhook-token");
    let notices = settings.notices.as_ref().unwrap();
    assert_eq!(
        (notices.room.as_str(), notices.unusable_after),
        ("#ops:example.com", Duration::from_secs(7200))
    );
    assert!(!format!("{settings:?}").contains(MARK));
    let public = "url = \"https://matrix.example.com/webhook/defguard\"\ndelay = \"2s\"\n";
    let settings = ground.good(&format!("{SMALL}{webhook}{public}"));
    assert_eq!(settings.webhook.unwrap().url.as_str(), "https://matrix.example.com/webhook/defguard");
    // The token as a systemd credential, which a unit may give whether it is needed or not.
    let env = Environment::empty().with("CREDENTIALS_DIRECTORY", ground.path("").to_str().unwrap());
    let small = SMALL
        .replace("password_file = \"$/defguard-password\"", "")
        .replace("token_file = \"$/synapse-token\"", "");
    for name in ["defguard-token", "defguard-totp-secret"] {
        fs::remove_file(ground.path(name)).unwrap();
    }
    let (settings, _) = ground.check_in(&small, &env).unwrap();
    assert!(settings.webhook.is_none());
    let (settings, _) =
        ground.check_in(&format!("{small}[webhook]\nlisten = \"[::1]:9118\"\n"), &env).unwrap();
    assert_eq!(settings.webhook.unwrap().url.as_str(), "http://[::1]:9118/webhook/defguard");
}

#[test]
fn mistakes_of_the_webhook_and_of_the_notices_are_found_in_their_places() {
    let ground = Ground::new();
    ground.secret("short", "hunter2");
    ground.secret("wrong", "hunter2 with blanks");
    for (text, problem) in [
        ("[webhook]\nlisten = \"9118\"", "webhook.listen: this is not an IP address with a port"),
        ("[webhook]\nlisten = \"127.0.0.1:0\"", "webhook.listen: this is not an IP address with a port"),
        (
            "[webhook]\nlisten = \"127.0.0.1:9118\"",
            "webhook.token_file: the token that Defguard has to send is missing",
        ),
        ("[webhook]\ntoken_file = \"$/short\"", "webhook.token_file: nothing listens for the webhook"),
        ("[webhook]\nurl = \"https://x.org/\"", "webhook.url: nothing listens for the webhook"),
        (
            "[webhook]\nlisten = \"127.0.0.1:9118\"\ntoken_file = \"$/wrong\"",
            "webhook.token_file: the token of the webhook has characters that Defguard cannot send",
        ),
        (
            "[webhook]\nlisten = \"127.0.0.1:9118\"\ntoken_file = \"$/short\"\nurl = \"ftp://x\"",
            "webhook.url: this is not an address that Defguard can send to",
        ),
        ("[webhook]\ndelay = \"1h\"", "webhook.delay: 1h is out of range"),
        ("[webhook]\ntoken = \"hunter2\"", "webhook.token"),
        ("[notices]\nroom = \"ops\"", "notices.room: this is neither a room id nor an alias"),
        ("[notices]\nunusable_after = \"1s\"", "notices.unusable_after: 1s is out of range"),
    ] {
        let shown = ground.errors(&format!("{SMALL}{text}\n"));
        assert!(shown.contains(problem), "{text}: {shown}");
        assert!(!shown.contains(MARK), "{shown}");
    }
    for (text, warning) in [
        ("listen = \"0.0.0.0:9118\"", "others than this machine can reach it"),
        ("listen = \"127.0.0.1:9118\"", "it can be guessed"),
        (
            "listen = \"127.0.0.1:9118\"\nurl = \"https://x.org/hook\"",
            "the path does not end with /webhook/defguard",
        ),
    ] {
        let text = format!("{SMALL}[webhook]\ntoken_file = \"$/short\"\n{text}\n");
        let (settings, findings) = ground.check(&text).unwrap();
        assert!(settings.webhook.is_some() && ground.shown(&findings).contains(warning), "{findings:?}");
    }
}

// ---- findings ----

#[test]
fn all_mistakes_of_a_config_are_found_at_once() {
    let ground = Ground::new();
    let text = r#"
retries = 3

[defguard]
url = "defguard.example.com"
instance = "Head Office"
usrname = "matrix-sync"
password = "hunter2-inline"
timeout = 30
page_workers = 99

[scope]
include_groups = ["staff", "[a"]
exclude_users = "root"

[synapse]
url = "http://admin:hunter2@127.0.0.1:8008"
token_file = "hunter2-not-a-path"
create = "empty-frist"
concurrency = 4
display_name = "enforce"

[accounts]
on_conflict = "steal"

[shedule]
sync = "* * * * *"

[schedule]
sync = "0 0 30 2 *"
full = "0 3 * * 0"
timezone = "Europe/Berlim"
jitter = "soon"

[control]
socket = "control.sock"

[log]
level = "loud"
"#;
    insta::assert_snapshot!(ground.errors(text));
}

#[test]
fn a_file_that_is_no_toml_shows_every_place_but_no_line_of_it() {
    let ground = Ground::new();
    let shown = ground.errors("[synapse]\ntoken = hunter2\nurl = \"http://x\n[defguard\nx = 1\nx = 2\n");
    assert!(!shown.contains(MARK), "{shown}");
    insta::assert_snapshot!(shown);
    assert!(
        ground
            .errors("[log]\nlevel = \"info\"\nlevel = \"warn\"\n")
            .contains("config.toml:3:1: this is not TOML: duplicate key")
    );
}

#[test]
fn a_config_that_cannot_be_read_says_why() {
    let ground = Ground::new();
    let findings = config::load(&ground.path("none.toml"), &Environment::empty(), now()).unwrap_err();
    assert!(show(&findings).contains("there is no such file"));
    let path = ground.path("latin1.toml");
    fs::write(&path, b"# M\xfcnchen\n").unwrap();
    let findings = config::load(&path, &Environment::empty(), now()).unwrap_err();
    assert!(show(&findings).contains("not UTF-8"));
}

#[test]
fn an_empty_config_names_everything_that_is_needed() {
    let ground = Ground::new();
    insta::assert_snapshot!(ground.errors(""));
}

// ---- values ----

#[test]
fn a_small_config_has_sensible_defaults() {
    let settings = Ground::new().good(SMALL);
    assert_eq!(settings.synapse.auth_provider, "oidc-Defguard");
    assert_eq!(settings.synapse.create, CreateMode::Auto);
    assert_eq!(settings.synapse.concurrency, 4);
    assert_eq!(settings.synapse.timeout, Duration::from_secs(60));
    assert_eq!(settings.synapse.token.expose_secret(), "hunter2-synapse-token");
    assert_eq!(settings.defguard.instance.as_str(), "default");
    assert_eq!(settings.defguard.scopes, ["openid", "profile", "email", "phone"]);
    assert_eq!(settings.accounts.on_conflict, OnConflict::Report);
    assert_eq!(settings.accounts.display_name, FieldPolicy::OnChange);
    assert_eq!(settings.accounts.email, FieldPolicy::Enforce);
    assert_eq!(settings.templates.subject.text, "{{ user.sub }}");
    assert_eq!(settings.templates.localpart.unwrap().at.position, Some((10, 22)));
    assert_eq!(settings.state.directory, Path::new("/var/lib/defguard-synapse-sync"));
    assert_eq!(settings.log.format, LogFormat::Text);
    assert!(settings.schedule.catch_up && !settings.scope.include_own_account);
}

#[test]
fn base_addresses_end_with_a_slash_so_that_paths_can_be_joined() {
    let ground = Ground::new();
    let settings = ground.good(&SMALL.replace("https://defguard.example.com", "https://example.com/vpn"));
    let joined = settings.defguard.url.join("api/v1/user").unwrap();
    assert_eq!(joined.as_str(), "https://example.com/vpn/api/v1/user");
}

#[test]
fn a_token_sent_in_the_clear_is_a_warning_unless_it_stays_on_the_machine() {
    let ground = Ground::new();
    for (url, clear) in [
        ("http://127.0.0.1:8008", false),
        ("http://localhost:8008", false),
        ("http://[::1]:8008", false),
        ("https://matrix.example.com", false),
        ("http://matrix.example.com", true),
        ("http://127.0.0.1.example.com", true),
    ] {
        let (_, findings) = ground.check(&SMALL.replace("http://127.0.0.1:8008", url)).unwrap();
        assert_eq!(show(&findings).contains("not encrypted"), clear, "{url}");
    }
}

#[test]
fn numbers_are_read_in_every_form_that_toml_has_and_kept_in_their_range() {
    let ground = Ground::new();
    for (number, days) in [
        ("1_000", Some(1000)),
        ("0x10", Some(16)),
        ("+5", Some(5)),
        ("-5", None),
        ("0", None),
        ("99999999999999999999", None),
        ("1.5", None),
    ] {
        match ground.check(&format!("{SMALL}[state]\nkeep_days = {number}\n")) {
            Ok((settings, _)) => assert_eq!(Some(settings.state.keep_days), days),
            Err(findings) => assert_eq!((days, findings.len()), (None, 1), "{}", show(&findings)),
        }
    }
}

#[test]
fn patterns_fit_whole_names_and_mind_the_case() {
    let ground = Ground::new();
    let scope = "[scope]\ninclude_groups = [\"matrix-*\", \"staff\", \"a\\\\*b\"]\n";
    let settings = ground.good(&format!("{SMALL}{scope}"));
    let groups = settings.scope.include_groups;
    for (name, fits) in [
        ("matrix-users", true),
        ("staff", true),
        ("Staff", false),
        ("staffs", false),
        ("a*b", true),
        ("axb", false),
    ] {
        assert_eq!(groups.matches(name), fits, "{name}");
    }
    assert!(settings.scope.exclude_users.is_empty() && !settings.scope.exclude_users.matches(""));
}

#[test]
fn doubtful_schedules_are_warnings() {
    let ground = Ground::new();
    for (schedule, doubt) in [
        ("sync = \"0 9 * * 1\"", Some("1 is Sunday")),
        ("sync = \"0 9 * * Mon\"", None),
        ("sync = \"0 9 * * */2\"", None),
        ("sync = \"* */5 * * * *\"", Some("comes true every 1s")),
        ("sync = \"* * * * *\"\njitter = \"2m\"", Some("longer than the time between")),
        ("full = \"@weekly\"\ntimezone = \"Europe/Berlin\"", None),
    ] {
        let (_, findings) = ground.check(&format!("{SMALL}[schedule]\n{schedule}\n")).unwrap();
        match doubt {
            Some(doubt) => assert!(show(&findings).contains(doubt), "{schedule}: {}", show(&findings)),
            None => assert_eq!(findings, [], "{schedule}"),
        }
    }
}

#[test]
fn systemd_says_where_state_and_socket_are_unless_the_config_does() {
    let ground = Ground::new();
    let env = Environment::empty().with("STATE_DIRECTORY", "/a:/b").with("RUNTIME_DIRECTORY", "/r");
    let (settings, _) = ground.check_in(SMALL, &env).unwrap();
    assert_eq!(settings.state.directory, Path::new("/a"));
    assert_eq!(settings.control.socket, Path::new("/r/control.sock"));
    let own = format!("{SMALL}[state]\ndirectory = \"/own\"\n[control]\nsocket = \"/own.sock\"\n");
    let (settings, _) = ground.check_in(&own, &env).unwrap();
    assert_eq!(settings.state.directory, Path::new("/own"));
    assert_eq!(settings.control.socket, Path::new("/own.sock"));
    let long = format!("{SMALL}[control]\nsocket = \"/{}\"\n", "x".repeat(107));
    assert!(ground.errors(&long).contains("107 bytes"));
}

// ---- secrets ----

#[test]
fn a_secret_comes_from_a_file_a_credential_or_the_environment() {
    let ground = Ground::new();
    let without = SMALL.replace("token_file = \"$/synapse-token\"\n", "");
    let credentials =
        Environment::empty().with("CREDENTIALS_DIRECTORY", ground.root.path().to_str().unwrap());
    let variable = Environment::empty().with("DEFGUARD_SYNAPSE_SYNC_SYNAPSE_TOKEN", "hunter2-variable");
    // The directory holds every credential, so that the rest of the config must not name files.
    let bare = without.replace("password_file = \"$/defguard-password\"\n", "");
    fs::remove_file(ground.path("defguard-token")).unwrap();
    let (settings, _) = ground.check_in(&bare, &credentials).unwrap();
    assert_eq!(settings.synapse.token.expose_secret(), "hunter2-synapse-token");
    let DefguardAuth::Session { username, password, totp_secret } = settings.defguard.auth else { panic!() };
    assert_eq!(username.as_str(), "matrix-sync");
    assert_eq!(password.expose_secret(), "hunter2-defguard-password");
    assert_eq!(totp_secret.unwrap().expose_secret(), "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP");
    let (settings, _) = ground.check_in(&without, &variable).unwrap();
    assert_eq!(settings.synapse.token.expose_secret(), "hunter2-variable");
    assert!(ground.errors(&without).contains("DEFGUARD_SYNAPSE_SYNC_SYNAPSE_TOKEN"));
}

#[test]
fn a_secret_that_is_given_twice_is_an_error() {
    let ground = Ground::new();
    let variable = Environment::empty().with("DEFGUARD_SYNAPSE_SYNC_SYNAPSE_TOKEN", "hunter2-variable");
    let findings = ground.check_in(SMALL, &variable).unwrap_err();
    assert!(show(&findings).contains("given a second time"), "{}", show(&findings));
    assert!(!show(&findings).contains(MARK));
    let both = SMALL.replace("username =", "token_file = \"$/defguard-token\"\nusername =");
    let shown = ground.errors(&both);
    assert_eq!(shown.matches("two ways to log in").count(), 2, "{shown}");
}

#[test]
fn an_unusable_secret_says_why_without_showing_it() {
    let ground = Ground::new();
    ground.secret("empty", "\n");
    ground.secret("lines", "hunter2\nhunter2\n");
    ground.secret("long", &"hunter2".repeat(10_000));
    fs::write(ground.path("binary"), b"hunter2\xff").unwrap();
    for (file, why) in [
        ("$/none", "there is no such file"),
        ("$/empty", "is empty"),
        ("$/lines", "more than one line"),
        ("$/long", "longer than"),
        ("$/binary", "not UTF-8"),
        ("$", "it is a directory"),
        ("syt_hunter2", "not an absolute path"),
        ("/hunter2", "there is no such file"),
    ] {
        let shown = ground.errors(&SMALL.replace("$/synapse-token", file));
        assert!(shown.contains(why) && shown.contains("synapse.token_file"), "{file}: {shown}");
        assert!(!shown.contains(MARK), "{file}: {shown}");
    }
    ground.secret("not-base32", "hunter2-1890!\n");
    let totp = SMALL.replace("username =", "totp_secret_file = \"$/not-base32\"\nusername =");
    assert!(ground.errors(&totp).contains("not base32"));
}

#[test]
fn a_secret_that_others_can_read_is_a_warning() {
    let ground = Ground::new();
    for (mode, warned) in
        [(0o400, false), (0o600, false), (0o440, false), (0o640, false), (0o644, true), (0o660, true)]
    {
        fs::set_permissions(ground.path("synapse-token"), fs::Permissions::from_mode(mode)).unwrap();
        let (_, findings) = ground.check(SMALL).unwrap();
        assert_eq!(findings.len(), usize::from(warned), "{mode:o}: {}", show(&findings));
    }
}

#[test]
fn every_inline_secret_is_refused_and_never_shown() {
    let ground = Ground::new();
    for (table, key) in [
        ("[synapse]", "token"),
        ("[synapse]", "access_token"),
        ("[defguard]", "password"),
        ("[defguard]", "totp_secret"),
        ("[defguard]", "api_key"),
        ("[state]", "secret"),
        ("", "token"),
    ] {
        let line = format!("{table}\n{key} = \"hunter2\"\n");
        let text = if table.is_empty() {
            format!("{line}{SMALL}")
        } else if SMALL.contains(table) {
            SMALL.replace(table, &line)
        } else {
            format!("{SMALL}{line}")
        };
        let shown = ground.errors(&text);
        assert!(shown.contains("secrets are not taken from the config itself"), "{shown}");
        assert!(!shown.contains(MARK), "{shown}");
    }
}

#[test]
fn no_secret_shows_in_the_debug_form_of_the_settings() {
    let ground = Ground::new();
    let env = Environment::empty()
        .with("DEFGUARD_SYNAPSE_SYNC_DEFGUARD_TOTP_SECRET", "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP");
    let (settings, _) = ground.check_in(SMALL, &env).unwrap();
    let shown = format!("{settings:?} {settings:#?} {env:?}");
    assert!(!shown.contains(MARK) && !shown.contains("JBSWY3DP"), "{shown}");
    let token = SMALL
        .replace("username = \"matrix-sync\"\n", "")
        .replace("password_file = \"$/defguard-password\"", "token_file = \"$/defguard-token\"");
    let settings = ground.good(&token);
    assert!(matches!(settings.defguard.auth, DefguardAuth::Token(_)));
    assert!(!format!("{settings:?}").contains(MARK));
}

// ---- homeserver.yaml ----

const HOMESERVER: &str = r#"
server_name: "example.org"
registration_shared_secret: "hunter2"
enable_registration: no
listeners:
  - {port: 8008, tls: no, x: .nan}
oidc_providers:
  - idp_id: Defguard
    idp_name: Defguard
    issuer: "https://defguard.example.com/"
    client_id: "abc"
    client_secret: "hunter2"
    scopes: ["openid", "profile", "email", "groups"]
    user_mapping_provider:
      config:
        localpart_template: "{{ user.preferred_username }}"
        display_name_template: "{{ user.name }}"
        email_template: "{{ user.email }}"
"#;

#[test]
fn templates_scopes_and_idp_id_come_from_the_homeserver_when_its_files_are_named() {
    let ground = Ground::new();
    let file = ground.write("homeserver.yaml", HOMESERVER);
    let settings = ground.good(&small_with_files(&ground, &["homeserver.yaml"], None));
    assert_eq!(settings.synapse.auth_provider, "oidc-Defguard");
    assert_eq!(settings.synapse.server_name.unwrap().as_str(), "example.org");
    assert_eq!(settings.defguard.scopes, ["openid", "profile", "email", "groups"]);
    let localpart = settings.templates.localpart.unwrap();
    assert_eq!(localpart.text, "{{ user.preferred_username }}");
    assert_eq!((localpart.at.file, localpart.at.position), (file.clone(), Some((16, 29))));
    // A missing subject template is Synapse's default.
    assert_eq!(settings.templates.subject.text, "{{ user.sub }}");
    assert_eq!(homeserver_yaml::templates_from(&[file]).unwrap().email.unwrap().text, "{{ user.email }}");
}

#[test]
fn what_comes_from_the_homeserver_must_not_be_written_again() {
    let ground = Ground::new();
    ground.write("homeserver.yaml", HOMESERVER);
    let twice = small_with_files(&ground, &["homeserver.yaml"], None).replace(
        "[defguard]",
        "[templates]\nsubject_template = \"x\"\nemail_template = \"x\"\n[defguard]\nscopes = [\"openid\"]",
    );
    assert_eq!(ground.errors(&twice).matches("written twice").count(), 3);
}

#[test]
fn files_are_merged_in_the_order_of_synapse_and_a_later_list_of_providers_replaces_the_earlier() {
    let ground = Ground::new();
    ground.write("homeserver.yaml", HOMESERVER);
    let later = |id: &str| HOMESERVER.replace("Defguard", id).replace("server_name: \"example.org\"", "");
    ground.write("conf.d/20-oidc.yaml", &later("Second"));
    ground.write("conf.d/10-oidc.yaml", &later("First"));
    ground.write("conf.d/30-oidc.yml", &later("NotYaml"));
    ground.write("conf.d/40-empty.yaml", "# nothing\n");
    ground.write("conf.d/50-list.yaml", "- a\n- b\n");
    ground.write("conf.d/60.yaml/inside.yaml", &later("Inside"));

    let (settings, findings) =
        ground.check(&small_with_files(&ground, &["homeserver.yaml", "conf.d"], None)).unwrap();
    assert_eq!(settings.synapse.auth_provider, "oidc-Second");
    assert_eq!(settings.synapse.server_name.unwrap().as_str(), "example.org");
    assert_eq!(show(&findings).matches("replaces the whole `oidc_providers`").count(), 2);
    let (settings, _) =
        ground.check(&small_with_files(&ground, &["conf.d", "homeserver.yaml"], None)).unwrap();
    assert_eq!(settings.synapse.auth_provider, "oidc-Defguard");

    // Inside one file the last of two equal keys counts, and that is said.
    ground.write("twice.yaml", &format!("{HOMESERVER}{}", later("Again")));
    let (settings, findings) = ground.check(&small_with_files(&ground, &["twice.yaml"], None)).unwrap();
    assert_eq!(settings.synapse.auth_provider, "oidc-Again");
    assert!(show(&findings).contains("stands twice"));

    // The trap: a later file that only meant to add something takes all providers away.
    ground.write("conf.d/90-last.yaml", "oidc_providers:\n");
    let shown = ground.errors(&small_with_files(&ground, &["homeserver.yaml", "conf.d"], None));
    assert!(shown.contains("replaces the whole") && shown.contains("has no OIDC provider"), "{shown}");
}

#[test]
fn the_provider_is_chosen_by_its_idp_id_if_there_are_several() {
    let ground = Ground::new();
    let (head, entry) = HOMESERVER.split_once("oidc_providers:\n").unwrap();
    let other = entry.replace("Defguard", "other").replace("user.name", "user.nickname");
    ground.write("two.yaml", &format!("{head}oidc_providers:\n{entry}{other}"));
    let shown = ground.errors(&small_with_files(&ground, &["two.yaml"], None));
    assert!(shown.contains("several OIDC providers: \"Defguard\", \"other\""), "{shown}");
    let settings = ground.good(&small_with_files(&ground, &["two.yaml"], Some("other")));
    assert_eq!(settings.synapse.auth_provider, "oidc-other");
    assert_eq!(settings.templates.display_name.unwrap().text, "{{ user.nickname }}");
    let shown = ground.errors(&small_with_files(&ground, &["two.yaml"], Some("oidc-other")));
    assert!(shown.contains("no OIDC provider of the homeserver has this idp_id"), "{shown}");
    ground.write("twins.yaml", &format!("{head}oidc_providers:\n{entry}{entry}"));
    assert!(
        ground.errors(&small_with_files(&ground, &["twins.yaml"], Some("Defguard"))).contains("same idp_id")
    );
}

#[test]
fn the_old_oidc_config_counts_when_it_is_enabled_and_its_auth_provider_has_no_prefix() {
    let ground = Ground::new();
    let (head, entry) = HOMESERVER.split_once("oidc_providers:\n").unwrap();
    let old = entry.replace("  - idp_id: Defguard\n", "    enabled: SWITCH\n");
    for (switch, on) in
        [("yes", true), ("On", true), ("true", true), ("no", false), ("off", false), ("", false)]
    {
        ground.write("old.yaml", &format!("{head}oidc_config:\n{}", old.replace("SWITCH", switch)));
        let outcome = ground.check(&small_with_files(&ground, &["old.yaml"], None));
        match outcome {
            Ok((settings, _)) if on => assert_eq!(settings.synapse.auth_provider, "oidc"),
            Err(findings) if !on => assert!(show(&findings).contains("has no OIDC provider")),
            Ok(_) => panic!("{switch:?} must switch it off"),
            Err(findings) => panic!("{switch:?}: {}", show(&findings)),
        }
    }
}

#[test]
fn yaml_is_read_as_pyyaml_reads_it() {
    let ground = Ground::new();
    let template = |config: &str| {
        let (head, _) = HOMESERVER.split_once("        localpart_template").unwrap();
        let file = ground.write("yaml.yaml", &format!("{head}{config}"));
        homeserver_yaml::templates_from(&[file])
    };
    // Of two equal keys the last one counts; merge keys and aliases are followed.
    let texts = template("        email_template: \"a\"\n        email_template: \"b\"\n").unwrap();
    assert_eq!(texts.email.unwrap().text, "b");
    assert_eq!(texts.localpart, None);
    let texts = template(
        "        <<: {localpart_template: \"merged\", email_template: \"x\"}\n        email_template: \"own\"\n",
    );
    let texts = texts.unwrap();
    assert_eq!(
        (texts.localpart.unwrap().text, texts.email.unwrap().text),
        ("merged".to_owned(), "own".to_owned())
    );
    let texts =
        template("        email_template: &one \"{{ user.email }}\"\n        localpart_template: *one\n")
            .unwrap();
    assert_eq!(texts.localpart.unwrap().text, "{{ user.email }}");
    // A quoted yes is a text, a plain one is not.
    assert_eq!(template("        email_template: \"yes\"\n").unwrap().email.unwrap().text, "yes");
    for (bad, what) in [
        ("yes", "truth value"),
        ("5", "a number"),
        ("", "null"),
        ("[a]", "a list"),
        ("{{ user.x }}", "a table"),
    ] {
        let finding = template(&format!("        localpart_template: {bad}\n")).unwrap_err();
        assert!(finding.problem.contains(what), "{bad}: {finding}");
    }
    // Blocks keep what YAML makes of them.
    let texts = template("        localpart_template: >-\n          {{ user.sub }}\n          x\n").unwrap();
    assert_eq!(texts.localpart.unwrap().text, "{{ user.sub }} x");
}

#[test]
fn an_empty_subject_template_and_the_old_subject_claim_are_taken_as_synapse_takes_them() {
    let ground = Ground::new();
    for (config, subject) in [
        ("{}", "{{ user.sub }}"),
        ("{subject_template: \"\"}", "{{ user.sub }}"),
        ("{subject_template: }", "{{ user.sub }}"),
        ("{subject_claim: \"email\"}", "{{ user.email }}"),
        ("{subject_template: \"\", subject_claim: email}", "{{ user.email }}"),
        ("{subject_template: \"{{ user.name }}\", subject_claim: email}", "{{ user.name }}"),
    ] {
        let (head, _) = HOMESERVER.split_once("      config:").unwrap();
        let file = ground.write("subject.yaml", &format!("{head}      config: {config}\n"));
        assert_eq!(homeserver_yaml::templates_from(&[file]).unwrap().subject.text, subject, "{config}");
    }
}

#[test]
fn what_this_program_cannot_work_out_is_refused_with_the_reason() {
    let ground = Ground::new();
    let provider = |from: &str, to: &str| {
        ground.write("refused.yaml", &HOMESERVER.replace(from, to));
        ground.check(&small_with_files(&ground, &["refused.yaml"], None))
    };
    let refused = |from: &str, to: &str| show(&provider(from, to).unwrap_err());
    let module = |name: &str| format!("user_mapping_provider:\n      module: {name}\n");
    let start = "user_mapping_provider:\n";
    assert!(refused(start, &module("my.OwnProvider")).contains("a module of its own"));
    assert!(provider(start, &module("synapse.handlers.oidc_handler.JinjaOidcMappingProvider")).is_ok());
    assert!(provider(start, &module("synapse.handlers.oidc.JinjaOidcMappingProvider")).is_ok());
    assert!(refused("localpart_template", "other_template").contains("there is no `localpart_template`"));
    assert!(refused("idp_id: Defguard", "x: y").contains("no idp_id"));
    assert!(refused("idp_id: Defguard", "idp_id: 12").contains("a number"));
    assert!(refused("idp_id: Defguard", "idp_id: a b").contains("a character"));
    assert!(refused("example.org", "example org").contains("no server name"));
    let (settings, findings) =
        provider("client_id:", "user_profile_method: userinfo_endpoint\n    client_id:").unwrap();
    assert!(show(&findings).contains("never has the groups"));
    assert_eq!(settings.defguard.scopes, ["openid", "profile", "email"]);
}

#[test]
fn a_homeserver_config_that_cannot_be_read_says_so_without_showing_secrets() {
    let ground = Ground::new();
    assert!(
        ground.errors(&small_with_files(&ground, &["none.yaml"], None)).contains("there is no such file")
    );
    for broken in [
        "registration_shared_secret: \"hunter2\n",
        "macaroon_secret_key: *hunter2\n",
        "a: hunter2: b\n",
        "a: [hunter2\n",
        "a: !hunter2 {\n",
        "%hunter2\n---\na: @hunter2\n",
        "a: \"\\hunter2\"\n",
        "\thunter2: 1\n",
        "a: 1\n---\nb: hunter2\n",
        "<<: hunter2\n",
    ] {
        ground.write("broken.yaml", &format!("server_name: example.org\n{broken}"));
        let shown = ground.errors(&small_with_files(&ground, &["broken.yaml"], None));
        assert!(!shown.contains(MARK), "{broken}: {shown}");
        assert!(shown.contains("$/broken.yaml"), "{broken}: {shown}");
    }
}

#[test]
fn the_auth_provider_is_the_idp_id_with_a_prefix() {
    assert_eq!(homeserver_yaml::auth_provider("Defguard").as_deref(), Some("oidc-Defguard"));
    assert_eq!(homeserver_yaml::auth_provider("oidc").as_deref(), Some("oidc"));
    for bad in ["", "a b", "ä", &"x".repeat(251)] {
        assert_eq!(homeserver_yaml::auth_provider(bad), None, "{bad}");
    }
    let shown = Ground::new().errors(&SMALL.replace("[templates]", "idp_id = \"a b\"\n[templates]"));
    assert!(shown.contains("Synapse would refuse this idp_id"), "{shown}");
}

// ---- laws ----

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_the_config_reader_panic(text in ".{0,200}") {
        let _ = config::check(&text, Path::new("x"), &Environment::empty(), now());
    }

    #[test]
    fn no_toml_makes_the_config_reader_panic_or_show_a_secret(
        table in "(defguard|scope|synapse|templates|accounts|schedule|state|control|log|other)",
        key in "(url|instance|username|token_file|timeout|page_workers|scopes|sync|jitter|timezone|idp_id|ca_file|\
                create|include_groups|homeserver_config|token|directory|level|socket|[a-z\"'.=\\[]{1,8})",
        before in "[\"'\\[{ a-z0-9*:/@#-]{0,6}",
        after in "[\"'\\]} a-z0-9*:/@#-]{0,6}",
    ) {
        let text = format!("[{table}]\n{key} = {before}hunter2{after}\n");
        if let Err(findings) = config::check(&text, Path::new("x"), &Environment::empty(), now()) {
            prop_assert!(!show(&findings).contains(MARK) || path_like(&before, &key), "{text}\n{}", show(&findings));
        }
    }

    #[test]
    fn no_bytes_make_the_yaml_reader_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        yaml in "(oidc_providers|oidc_config|server_name|<<|\\? x):[-\\[{ \n:a-z\"'&*!|>%@`,}\\]0-9.~]{0,80}",
    ) {
        let ground = TempDir::new().unwrap();
        let file = ground.path().join("x.yaml");
        for content in [bytes, yaml.into_bytes()] {
            fs::write(&file, content).unwrap();
            let _ = homeserver_yaml::templates_from(std::slice::from_ref(&file));
        }
    }
}

/// The path of a file that holds no secret is shown when it cannot be read.
fn path_like(before: &str, key: &str) -> bool {
    before.contains('/') && (key == "ca_file" || key == "homeserver_config")
}

// ---- monitoring ----

#[test]
fn the_daemon_tells_how_it_is_on_this_machine_unless_it_is_told_otherwise() {
    let ground = Ground::new();
    let usual = ground.good(SMALL).monitoring;
    assert_eq!(usual.listen, Some(([127, 0, 0, 1], 9847).into()));
    assert!(!usual.listen_given && !usual.status_page_names);
    let told =
        |listen: &str| ground.good(&format!("{SMALL}[monitoring]\nlisten = \"{listen}\"\n")).monitoring;
    assert_eq!(told("off").listen, None);
    assert_eq!(told("[::1]:1234").listen, Some("[::1]:1234".parse().unwrap()));
    assert!(told("127.0.0.1:9847").listen_given);
}

#[test]
fn an_address_to_listen_on_is_checked() {
    let ground = Ground::new();
    let config = |listen: &str| format!("{SMALL}[monitoring]\nlisten = \"{listen}\"\n");
    for wrong in ["localhost:9847", "9847", "127.0.0.1", ":9847", "127.0.0.1:99999", ""] {
        let errors = ground.errors(&config(wrong));
        assert!(
            errors.contains("monitoring.listen: this is not an address to listen on"),
            "{wrong}: {errors}"
        );
    }
    let (settings, findings) = ground.check(&config("0.0.0.0:9847")).unwrap();
    assert_eq!(settings.monitoring.listen, Some("0.0.0.0:9847".parse().unwrap()));
    let warning = show(&findings);
    assert!(warning.contains("warning") && warning.contains("without a password"), "{warning}");
}
