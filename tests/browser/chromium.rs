//! One login in a real browser: Chromium without a screen goes from Synapse through the stand-in Defguard's pages to
//! Synapse's last page, of which a picture is kept. `tests/browser/run` calls it.
//!
//! Chromium is spoken to by its DevTools protocol over two pipes (`--remote-debugging-pipe`): JSON, each message ended by
//! a zero byte.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a program for a terminal; whatever goes wrong ends it"
)]

#[path = "../support/mod.rs"]
mod support;

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use support::{
    browser::CLIENT,
    defguard::{ADMIN_PASSWORD, NewPerson, StandIn},
    synapse::{Options, Synapse},
};
use url::Url;

/// The longest that a page may take.
const PATIENCE: Duration = Duration::from_secs(60);
const PASSWORD: &str = "Login-pass123!";

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [program, picture] = arguments.as_slice() else {
        println!("usage: cargo run --example browser-login -- PROGRAM PICTURE.png");
        return ExitCode::from(2);
    };
    match show(program, picture).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("the login in Chromium failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn show(program: &Path, picture: &Path) -> anyhow::Result<()> {
    let defguard = StandIn::start().await;
    defguard.serve_logins();
    let person = NewPerson::named("alice").name("Alice", "Liddell").password(Some(PASSWORD));
    defguard.add_person(person);
    let options =
        Options { server_name: "browser.test".to_owned(), oidc_provider: None, ..Options::default() };
    let synapse = Synapse::start(options).await.map_err(anyhow::Error::msg)?;
    let home = tempfile::tempdir()?;
    set_up(program, home.path(), &defguard, &synapse).await?;

    let mut start =
        Url::parse(&format!("{}/_matrix/client/v3/login/sso/redirect/oidc-Defguard", synapse.url()))?;
    start.query_pairs_mut().append_pair("redirectUrl", CLIENT);
    let (link, text, png) =
        tokio::task::spawn_blocking(move || Chromium::start()?.log_in(start.as_str())).await??;
    fs::write(picture, png).with_context(|| format!("cannot write {}", picture.display()))?;
    println!("the last page is in {}; it says:\n{text}", picture.display());

    ensure!(text.contains("Alice Liddell") && text.contains("@alice:browser.test"), "another name is shown");
    let back = Url::parse(&link)?;
    let token = back.query_pairs().find(|(key, _)| key == "loginToken").context("there is no login token")?.1;
    let body = json!({"type": "m.login.token", "token": token});
    let reply = synapse.call(reqwest::Method::POST, "/_matrix/client/v3/login", None, Some(&body)).await;
    ensure!(reply.body["user_id"] == "@alice:browser.test", "Synapse says {reply:?}");
    ensure!(reply.body["access_token"].is_string(), "there is no access token");
    let alices = synapse
        .accounts()
        .await
        .iter()
        .filter(|it| it["name"].as_str().is_some_and(|name| name.starts_with("@alice")))
        .count();
    ensure!(alices == 1, "there are {alices} accounts of alice");
    println!("\nalice is logged in to @alice:browser.test, the account that was made for her before");
    Ok(())
}

/// `setup oidc`, a restart, and a sync.
async fn set_up(program: &Path, home: &Path, defguard: &StandIn, synapse: &Synapse) -> anyhow::Result<()> {
    for (name, text) in [("defguard-password", ADMIN_PASSWORD), ("synapse-token", synapse.admin_token())] {
        fs::write(home.join(name), text)?;
        fs::set_permissions(home.join(name), fs::Permissions::from_mode(0o600))?;
    }
    let files = [synapse.config_file(), synapse.config_directory()].map(|path| path.display().to_string());
    let (defguard_url, synapse_url) = (defguard.url(), synapse.url());
    let setup = [
        "setup",
        "oidc",
        "--yes",
        "--defguard-url",
        defguard_url.as_str(),
        "--defguard-username",
        "admin",
        "--homeserver-config",
        &files[0],
        "--homeserver-config",
        &files[1],
        "--synapse-url",
        &synapse_url,
    ];
    run(program, home, &setup).await?;
    synapse.start_again().await.map_err(anyhow::Error::msg)?;
    run(program, home, &["sync"]).await
}

async fn run(program: &Path, home: &Path, arguments: &[&str]) -> anyhow::Result<()> {
    let mut command = Command::new(program);
    command.arg("--config").arg(home.join("config.toml")).args(arguments);
    command.env("STATE_DIRECTORY", home.join("state")).env("RUNTIME_DIRECTORY", home);
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    let said = [output.stderr, output.stdout].concat();
    let said = String::from_utf8_lossy(&said);
    ensure!(output.status.success(), "{arguments:?} ended with {}:\n{said}", output.status);
    Ok(())
}

/// A Chromium with one page. It ends when this is dropped.
struct Chromium {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    next: u64,
    session: Option<String>,
    _profile: tempfile::TempDir,
}

impl Chromium {
    fn start() -> anyhow::Result<Self> {
        let profile = tempfile::tempdir()?;
        // The shell gives it our pipes in the places where it looks for them.
        let mut child = Command::new("sh")
            .args(["-c", "exec chromium \"$@\" 3<&0 4>&1 </dev/null >/dev/null", "sh"])
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--remote-debugging-pipe",
                "--hide-scrollbars",
                "--window-size=800,900",
                // Synapse's pages have a logo from the internet.
                "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
            ])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("sh cannot be started")?;
        let to = child.stdin.take().context("no pipe")?;
        let from = BufReader::new(child.stdout.take().context("no pipe")?);
        let mut chromium = Self { child, to, from, next: 0, session: None, _profile: profile };
        let targets = chromium.call("Target.getTargets", json!({}))?;
        let page = targets["targetInfos"]
            .as_array()
            .and_then(|targets| targets.iter().find(|target| target["type"] == "page"))
            .context("Chromium has no page")?;
        let attach = json!({"targetId": page["targetId"], "flatten": true});
        let attached = chromium.call("Target.attachToTarget", attach)?;
        chromium.session = attached["sessionId"].as_str().map(str::to_owned);
        Ok(chromium)
    }

    /// Calls a method and waits for its answer; what else comes meanwhile is passed over.
    fn call(&mut self, method: &str, parameters: Value) -> anyhow::Result<Value> {
        self.next += 1;
        let mut message = json!({"id": self.next, "method": method, "params": parameters});
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        self.to.write_all(format!("{message}\0").as_bytes())?;
        loop {
            let mut bytes = Vec::new();
            self.from.read_until(0, &mut bytes)?;
            let Some((0, text)) = bytes.split_last() else { bail!("Chromium ended; is it installed?") };
            let mut answer: Value = serde_json::from_slice(text)?;
            if answer["id"] == json!(self.next) {
                ensure!(answer.get("error").is_none(), "{method}: {answer}");
                return Ok(answer["result"].take());
            }
        }
    }

    /// What an expression gives on the page as it is now; null while the page is loading.
    fn evaluate(&mut self, expression: &str) -> anyhow::Result<Value> {
        let parameters = json!({"expression": expression, "returnByValue": true});
        let mut result = match self.call("Runtime.evaluate", parameters) {
            // The page went away while it was asked.
            Err(error) if error.to_string().contains("context") => return Ok(Value::Null),
            result => result?,
        };
        Ok(result["result"]["value"].take())
    }

    /// Waits until an expression gives something.
    fn wait(&mut self, expression: &str) -> anyhow::Result<Value> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let value = self.evaluate(expression)?;
            if !matches!(value, Value::Null | Value::Bool(false)) {
                return Ok(value);
            }
            if Instant::now() > deadline {
                let page = self.evaluate("location.href + '\\n' + document.body.innerText")?;
                bail!("{expression} never came; the page is\n{}", page.as_str().unwrap_or_default());
            }
            // A page that is being replaced has no event that both pages share.
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Logs in as a person does: types, clicks, and stops at Synapse's last page. The link back to the client, the text of
    /// the page and its picture.
    fn log_in(mut self, start: &str) -> anyhow::Result<(String, String, Vec<u8>)> {
        self.call("Page.navigate", json!({"url": start}))?;
        self.wait("location.pathname === '/auth/login' && !!document.getElementById('password')")?;
        self.evaluate(&format!(
            "document.getElementById('username').value = 'alice'; \
             document.getElementById('password').value = '{PASSWORD}'; document.querySelector('button').click()"
        ))?;
        self.wait("location.pathname === '/consent' && document.readyState === 'complete'")?;
        self.evaluate("document.getElementById('allow').click()")?;
        let link = self.wait(&format!(
            "document.readyState === 'complete' && (document.querySelector('a[href^=\"{CLIENT}\"]') || {{}}).href || null"
        ))?;
        let text = self.evaluate("document.body.innerText")?;
        let picture = self.call("Page.captureScreenshot", json!({"format": "png"}))?;
        let png = BASE64_STANDARD.decode(picture["data"].as_str().context("there is no picture")?)?;
        let (Some(link), Some(text)) = (link.as_str(), text.as_str()) else {
            bail!("the last page is empty")
        };
        Ok((link.to_owned(), text.to_owned(), png))
    }
}

impl Drop for Chromium {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
