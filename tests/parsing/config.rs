//! Our own TOML and the homeserver's YAML.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use chrono::{DateTime, Utc};
use defguard_synapse_sync::config::{self, Environment, Finding, Settings, homeserver_yaml};
use proptest::{prelude::*, sample::Index};
use tempfile::TempDir;

use crate::{cases, damage::damage};

/// Stands in every secret.
const MARK: &str = "hunter2";

const HOMESERVER: &str = r#"
server_name: example.org
macaroon_secret_key: hunter2-macaroon
registration_shared_secret: "hunter2-registration"
database:
  name: psycopg2
  args: &args {user: synapse, password: hunter2-database}
oidc_providers:
  - idp_id: Defguard
    idp_name: Defguard
    issuer: "https://defguard.example.com/"
    client_id: "abc"
    client_secret: "hunter2-client"
    scopes: ["openid", "profile", "email", "groups"]
    user_mapping_provider:
      config:
        subject_template: "{{ user.sub }}"
        localpart_template: "{{ user.preferred_username }}"
        display_name_template: |
          {{ user.name }}
        email_template: "{{ user.email }}"
"#;

fn now() -> DateTime<Utc> {
    "2026-11-02T12:00:00Z".parse().unwrap()
}

/// A directory with secrets, and the config of the documentation with every key in it.
struct Ground {
    dir: TempDir,
    full: String,
}

static GROUND: LazyLock<Ground> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    for name in ["defguard-password", "synapse-token"] {
        let path = dir.path().join(name);
        fs::write(&path, format!("{MARK}-{name}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
    }
    let key = |line: &&str| line.starts_with('[') || line.contains(" = ");
    let full: String = include_str!("../../config/config.example.toml")
        .lines()
        .filter(|line| !line.starts_with("# ") && *line != "#")
        .map(|line| line.trim_start_matches('#'))
        .filter(key)
        .map(|line| format!("{line}\n"))
        .collect();
    // The example leaves secrets to systemd; here they are files.
    let home = dir.path().display();
    let full = full
        .replace(
            "username = \"matrix-sync\"\n",
            &format!("username = \"matrix-sync\"\npassword_file = \"{home}/defguard-password\"\n"),
        )
        .replace("[synapse]\n", &format!("[synapse]\ntoken_file = \"{home}/synapse-token\"\n"))
        .replace("\"/etc/defguard-synapse-sync", &format!("\"{home}"));
    let ground = Ground { dir, full };
    let checked = ground.check(&ground.full);
    assert!(checked.is_ok(), "{}{}", shown(&checked.unwrap_err()), ground.full);
    assert!(ground.lines().len() > 25, "{}", ground.full);
    ground
});

type Checked = Result<(Settings, Vec<Finding>), Vec<Finding>>;

impl Ground {
    fn check(&self, text: &str) -> Checked {
        config::check(text, Path::new("config.toml"), &Environment::empty(), now())
    }

    /// The numbers of the lines that set a key.
    fn lines(&self) -> Vec<usize> {
        let lines = self.full.lines().enumerate();
        lines.filter(|(_, line)| line.contains(" = ")).map(|(number, _)| number).collect()
    }

    /// The config with one line replaced.
    fn with(&self, number: usize, line: &str) -> String {
        let mut lines: Vec<&str> = self.full.lines().collect();
        lines[number] = line;
        lines.join("\n")
    }

    fn yaml(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }
}

fn shown(findings: &[Finding]) -> String {
    findings.iter().map(|finding| format!("{finding}\n{finding:?}\n")).collect()
}

/// Whatever it was, it is settings, or errors of which each says what and where.
fn is_explained(checked: &Checked) -> Result<(), TestCaseError> {
    let findings = match checked {
        Ok((settings, findings)) => {
            let settings = format!("{settings:?}");
            prop_assert!(!settings.contains(MARK), "{}", settings);
            findings
        }
        Err(findings) => {
            prop_assert!(findings.iter().any(Finding::is_error));
            findings
        }
    };
    prop_assert!(!shown(findings).contains(MARK), "{}", shown(findings));
    Ok(())
}

/// Values of every kind, some of them of no use to anybody.
const VALUES: &[&str] = &[
    "",
    "true",
    "0",
    "-1",
    "1.5",
    "nan",
    "9223372036854775807",
    "9223372036854775808",
    "1e400",
    "\"\"",
    "\"\\u0000\"",
    "\"\\ud800\"",
    "\"x\"",
    "\"99999999999999999999d\"",
    "\"* * * * *\"",
    "\"{{ user.sub\"",
    "\"http://[::1\"",
    "[]",
    "[[]]",
    "[\"\", \"*\", \"[\"]",
    "{}",
    "{ a = { b = 1 } }",
    "2026-11-02T12:00:00Z",
    "'''\n'''",
    "\"",
    "[",
];

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn a_damaged_config_is_explained_and_shows_no_secret(damage in damage()) {
        let bytes = damage.to_bytes(GROUND.full.as_bytes());
        let path = GROUND.yaml("damaged.toml", &bytes);
        is_explained(&config::load(&path, &Environment::empty(), now()))?;
        let _ = config::load_templates(&path, &Environment::empty());
    }

    #[test]
    fn no_key_of_a_config_is_passed_over(
        line in any::<Index>(),
        value in prop::sample::select(VALUES),
        what in 0..4,
    ) {
        let number = *line.get(&GROUND.lines());
        let line = GROUND.full.lines().nth(number).unwrap();
        let (key, old) = line.split_once(" = ").unwrap();
        let text = match what {
            // A value of another kind.
            0 => GROUND.with(number, &format!("{key} = {value}")),
            // The key twice, the same or with another value.
            1 => GROUND.with(number, &format!("{line}\n{key} = {value}")),
            2 => GROUND.with(number, &format!("{line}\n{line}")),
            // A key that nobody knows.
            _ => GROUND.with(number, &format!("{key}s_ = {old}")),
        };
        let checked = GROUND.check(&text);
        is_explained(&checked)?;
        prop_assert!(what == 0 || checked.is_err(), "{}", text);
        if let (0, Err(findings)) = (what, &checked) {
            prop_assert!(shown(findings).contains(key) || shown(findings).contains("TOML"), "{}", shown(findings));
        }
    }

    #[test]
    fn a_damaged_homeserver_yaml_is_explained_and_shows_no_secret(damage in damage(), line in any::<Index>()) {
        let bytes = match damage {
            crate::damage::Damage::Json(..) => {
                // One line is missing or stands twice.
                let mut lines: Vec<&str> = HOMESERVER.lines().collect();
                let at = line.index(lines.len());
                if line.index(2) == 0 { lines.remove(at); } else { lines.insert(at, lines[at]); }
                lines.join("\n").into_bytes()
            }
            _ => damage.to_bytes(HOMESERVER.as_bytes()),
        };
        let path = GROUND.yaml("damaged.yaml", &bytes);
        let templates = homeserver_yaml::templates_from(std::slice::from_ref(&path));
        if let Err(finding) = &templates {
            prop_assert!(!shown(std::slice::from_ref(finding)).contains(MARK), "{}", finding);
            prop_assert!(finding.to_string().contains("damaged.yaml"), "{}", finding);
        }
        let text = format!(
            "[defguard]\nurl = \"https://d.example.com\"\nusername = \"s\"\npassword_file = \"{0}/defguard-password\"\n\
             [synapse]\nurl = \"http://127.0.0.1:8008\"\ntoken_file = \"{0}/synapse-token\"\n\
             homeserver_config = [{1:?}]\n",
            GROUND.dir.path().display(),
            path,
        );
        let checked = GROUND.check(&text);
        is_explained(&checked)?;
        prop_assert!(templates.is_ok() || checked.is_err());
    }
}

#[test]
fn however_deep_or_large_a_config_is_it_is_an_error() {
    for text in [
        format!("a = {}", "[".repeat(200_000)),
        format!("a = {}{}", "[".repeat(20_000), "]".repeat(20_000)),
        format!("a = {}1{}", "{a=".repeat(20_000), "}".repeat(20_000)),
        format!("a{} = 1", ".a".repeat(100_000)),
        format!("[a{}]", ".a".repeat(100_000)),
        format!("[synapse]\nconcurrency = {}", "9".repeat(100_000)),
        format!("[scope]\nexclude_users = [\"{}\"]", "{a,".repeat(10_000)),
        format!("[scope]\nexclude_users = [\"{}\"]", "[".repeat(10_000)),
        format!("[schedule]\nsync = \"{}\"", "*/".repeat(10_000)),
    ] {
        let findings = GROUND.check(&text).unwrap_err();
        assert!(findings.iter().any(Finding::is_error));
    }
}

#[test]
fn however_deep_or_large_a_homeserver_yaml_is_it_is_an_error() {
    let steps: String = (1..3000).map(|step| format!("{}a:\n", " ".repeat(step))).collect();
    let laughs: String = (1..12)
        .map(|step| format!("a{step}: &a{step} [{}]\n", format!("*a{},", step - 1).repeat(9)))
        .collect();
    for text in [
        format!("oidc_providers: {}", "[".repeat(100_000)),
        format!("oidc_providers: {}{}", "[".repeat(100_000), "]".repeat(100_000)),
        format!("oidc_providers: {}{}", "{a: ".repeat(100_000), "}".repeat(100_000)),
        format!("other: {}{}", "[".repeat(100_000), "]".repeat(100_000)),
        format!("oidc_providers:\n {}x", "- ".repeat(100_000)),
        format!("oidc_providers:\n {}x", "? ".repeat(100_000)),
        format!("oidc_providers:\n{steps}"),
        format!("a0: &a0 [x,x,x,x,x,x,x,x,x]\n{laughs}oidc_providers: *a11\n"),
    ] {
        let path = GROUND.yaml(&format!("deep-{}.yaml", text.len()), text.as_bytes());
        let finding = homeserver_yaml::templates_from(&[path]).unwrap_err();
        assert!(finding.to_string().len() < 2000, "an error as long as the mistake");
    }
}
