//! The whole thing on one machine: a real Synapse, a stand-in Defguard with 335 people, and this service between them.
//!
//! `cargo run --example sandbox` stays up and syncs on its schedule until Ctrl-C; with `-- --once` it ends after it
//! has synced and shown that nothing is left to do.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a program for a terminal; whatever cannot be set up ends it"
)]

#[path = "../support/mod.rs"]
mod support;

use std::{fs, path::Path, process::ExitCode, sync::Arc, time::Instant};

use anyhow::{Context as _, bail, ensure};
use defguard_synapse_sync::{
    assemble, cli,
    config::{self, Environment, Settings},
    daemon::Daemon,
    domain::{Change, ExternalId, Instance, MARKER_PROVIDER},
    engine::{Engine, RunReport, RunRequest},
    http::Meter,
    ports::Clock as _,
    reconcile::Pass,
    serve::metrics::Metrics,
};
use serde_json::json;
use support::{
    defguard::{ADMIN_PASSWORD, NewPerson, StandIn},
    proxy::Proxy,
    synapse::{self, Synapse, defguard_provider, user_path},
};

#[tokio::main]
async fn main() -> ExitCode {
    let once = match std::env::args().skip(1).collect::<Vec<_>>().as_slice() {
        [] => false,
        [flag] if flag == "--once" => true,
        _ => {
            println!("usage: cargo run --example sandbox [-- --once]");
            return ExitCode::from(2);
        }
    };
    match sandbox(once).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("\nthe sandbox failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The client id and the secret of the app in Defguard.
const APP: (&str, &str) = ("matrix", "the-secret-of-the-app");

async fn sandbox(once: bool) -> anyhow::Result<()> {
    println!("Starting a stand-in Defguard with the 335 recorded people …");
    let defguard = StandIn::start().await;
    defguard.load_recorded();
    defguard.serve_logins();

    println!("Starting a real Synapse (the first time it is installed, which takes a minute or two) …");
    let provider = defguard_provider(defguard.url().as_str(), APP.0, APP.1);
    let synapse = Synapse::start(synapse::Options {
        server_name: "sandbox.test".to_owned(),
        oidc_provider: Some(provider),
        ..synapse::Options::default()
    })
    .await
    .map_err(anyhow::Error::msg)?;
    register_app(&defguard, &synapse);
    let proxy = Proxy::start(&synapse.url()).await;

    let home = tempfile::Builder::new().prefix("sandbox-").tempdir()?;
    let file = write_config(home.path(), &defguard, &synapse, &proxy)?;
    let (settings, engine, metrics) = engine(&file)?;

    println!("\nThe first sync:\n");
    let report = engine.run(&RunRequest::everybody(Pass::Frequent), &()).await;
    println!("{}", cli::show_report(&report));
    ensure!(report.exit_code() == 0, "the sync ended with exit code {}", report.exit_code());
    let created = look_into_synapse(&synapse, &report).await?;
    println!(
        "Synapse's admin API shows the {created} accounts, each with its display name, e-mail address, login \
         ({}) and ownership marker.",
        settings.synapse.auth_provider
    );

    proxy.clear();
    let began = Instant::now();
    let again = engine.run(&RunRequest::everybody(Pass::Frequent), &()).await;
    let (writes, single) = (proxy.writes().len(), proxy.single_person_requests().len());
    println!(
        "A second sync took {:.2} s; the proxy before Synapse counted {writes} writes and {single} requests for a single \
         person.",
        began.elapsed().as_secs_f64()
    );
    ensure!(again.exit_code() == 0, "the second sync ended with exit code {}", again.exit_code());
    ensure!(writes == 0 && single == 0, "the second sync should have had nothing to do");
    if once {
        return Ok(());
    }

    make_trouble(&defguard, &synapse).await;
    advise(&file, &defguard, &synapse);
    tracing_subscriber::fmt().with_env_filter("defguard_synapse_sync=info").init();
    let daemon =
        Daemon::new(engine, Arc::new(assemble::SystemClock), assemble::timetable(&settings), false, || 0.0)
            .monitored(&settings, metrics);
    daemon.run(&settings.control.socket).await.context("the daemon ended")
}

/// The app in Defguard that Synapse's provider entry names.
fn register_app(defguard: &StandIn, synapse: &Synapse) {
    let provider = &mut defguard.state().provider;
    let back = format!("{}/_synapse/client/oidc/callback", synapse.url());
    let scopes = ["openid", "profile", "email", "phone"].map(str::to_owned).to_vec();
    provider.add_app("Matrix", vec![back], scopes, true);
    if let Some(app) = provider.apps.last_mut() {
        APP.0.clone_into(&mut app.client_id);
        APP.1.clone_into(&mut app.client_secret);
    }
}

/// Writes the config as an admin would: templates, scopes and `idp_id` come from the homeserver's own YAML.
fn write_config(
    home: &Path,
    defguard: &StandIn,
    synapse: &Synapse,
    proxy: &Proxy,
) -> anyhow::Result<std::path::PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;
    let secret = |name: &str, value: &str| -> anyhow::Result<String> {
        let path = home.join(name);
        fs::write(&path, value)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        Ok(path.display().to_string())
    };
    let password = secret("defguard-password", ADMIN_PASSWORD)?;
    let token = secret("synapse-token", synapse.admin_token())?;
    let text = format!(
        r#"[defguard]
url = "{}"
username = "admin"
password_file = "{password}"

[synapse]
url = "{}"
token_file = "{token}"
homeserver_config = ["{}"]

[schedule]
sync = "*/15 * * * * *"
jitter = "0s"

[state]
directory = "{}"

[control]
socket = "{}"

[monitoring]
status_page_names = true
"#,
        defguard.url(),
        proxy.url(),
        synapse.config_file().display(),
        home.join("state").display(),
        home.join("control.sock").display(),
    );
    let file = home.join("config.toml");
    fs::write(&file, text)?;
    Ok(file)
}

fn engine(file: &Path) -> anyhow::Result<(Settings, Engine, Arc<Metrics>)> {
    let show = |findings: Vec<config::Finding>| {
        anyhow::Error::msg(findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    };
    let now = assemble::SystemClock.now();
    let (settings, _) = config::load(file, &Environment::empty(), now).map_err(show)?;
    let templates = assemble::templates(&settings.templates).map_err(show)?;
    let (store, _) = assemble::store(&settings, 1)?;
    let metrics = Arc::new(Metrics::new(now));
    let meter = Arc::clone(&metrics) as Arc<dyn Meter>;
    let engine = assemble::counted_engine(&settings, templates, store, meter)?;
    Ok((settings, engine, metrics))
}

/// Asks the real Synapse whether every account that was made is as it should be.
async fn look_into_synapse(synapse: &Synapse, report: &RunReport) -> anyhow::Result<usize> {
    let mut created = 0;
    for person in report.people.iter().filter(|person| person.done.contains(&Change::Created)) {
        let mxid = person.mxid.as_ref().context("a created account without MXID")?;
        let account = synapse.admin_get(&user_path(mxid.as_str())).await.body;
        let marker = ExternalId::marker(&Instance::new("default"), person.id);
        for (provider, id) in
            [("oidc-Defguard", person.username.as_str()), (MARKER_PROVIDER, marker.external_id.as_str())]
        {
            let wanted = json!({"auth_provider": provider, "external_id": id});
            let ids = account["external_ids"].as_array().cloned().unwrap_or_default();
            ensure!(ids.contains(&wanted), "{mxid} lacks {provider}:{id}");
        }
        ensure!(account["displayname"].is_string(), "{mxid} has no display name");
        let has_email = account["threepids"].as_array().is_some_and(|threepids| !threepids.is_empty());
        ensure!(has_email || !person.notes.is_empty(), "{mxid} has no e-mail address, and no note says why");
        created += 1;
    }
    if created == 0 {
        bail!("nobody was created");
    }
    Ok(created)
}

/// Two people who would get the same MXID, and one whose name somebody registered before them.
async fn make_trouble(defguard: &StandIn, synapse: &Synapse) {
    defguard.add_person(NewPerson::named("sam.east").name("Sam", "East").email("sam@east.example"));
    defguard.add_person(NewPerson::named("sam.west").name("Sam", "West").email("sam@west.example"));
    synapse.register_user("casey", false).await;
    defguard.add_person(NewPerson::named("casey").name("Casey", "Jones").email("casey@example.com"));
}

fn advise(file: &Path, defguard: &StandIn, synapse: &Synapse) {
    let program = format!("cargo run -q -- --config {}", file.display());
    let cookie = defguard.session_for("admin", true);
    let person = format!("{}api/v1/user/user005", defguard.url());
    println!(
        "\nThe daemon is up and syncs every 15 seconds; Ctrl-C ends it. In another terminal:\n\n\
         Why is somebody as they are? A healthy person, two who want one name, and one whose name was taken before:\n  \
         {program} explain user005\n  {program} explain sam.east\n  {program} explain casey\n\n\
         How is the daemon? Look at http://127.0.0.1:9847/ in a browser, or at its metrics:\n  \
         curl -s http://127.0.0.1:9847/metrics\n\n\
         The name was theirs all along:\n  {program} link casey @casey:sandbox.test\n\n\
         Change a person in Defguard, then watch the next run, or do not wait for it:\n  \
         curl -s -H 'Cookie: {cookie}' {person} \\\n    \
         | python3 -c 'import json,sys; u=json.load(sys.stdin)[\"user\"]; u[\"username\"]=\"renamed005\"; print(json.dumps(u))' \\\n    \
         | curl -s -A curl -X PUT -H 'Cookie: {cookie}' -H 'Content-Type: application/json' --data-binary @- {person}\n  \
         {program} sync renamed005\n  {program} explain renamed005\n\n\
         How are things, what was done, is all well, and where do logins lead?\n  {program} status\n  {program} journal\n  {program} check --people\n\n\
         Look into Synapse yourself:\n  \
         curl -s -H 'Authorization: Bearer {}' '{}/_synapse/admin/v2/users?limit=3'\n",
        synapse.admin_token(),
        synapse.url(),
    );
}
