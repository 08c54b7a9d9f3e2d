//! The status page in headless Chromium: it renders, says nothing on the console, and fits a phone.

use std::{fs, path::PathBuf, process::Command};

use axum::{Router, response::Html, routing::get};

use crate::{
    Serving,
    overview::{calm, hostile, troubled, young},
    tool,
};

/// Where screenshots are left for people.
fn pictures() -> PathBuf {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/status-page");
    fs::create_dir_all(&directory).unwrap();
    directory
}

/// A page as wide as a phone that holds the status page and, below it, what it measures of it.
const PHONE: &str = r#"<!doctype html><body style="margin:0"><iframe id="f" style="border:0;display:block"></iframe>
<pre id="out"></pre><script>
fetch("/").then(r => r.text()).then(html => {
  const f = document.getElementById("f");
  f.width = 390; f.height = 4300;
  f.onload = () => {
    const d = f.contentDocument.documentElement;
    document.getElementById("out").textContent = "width " + d.scrollWidth + " of " + d.clientWidth;
  };
  f.srcdoc = html;
});
</script>"#;

/// A page that the browser complains about.
const FAULTY: &str = r#"<!doctype html><script>console.error("a fault of this page")</script>"#;

fn chromium(home: &std::path::Path, more: &[&str]) -> Command {
    let mut command = Command::new("chromium");
    command
        .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .args(["--enable-logging=stderr", "--virtual-time-budget=5000"])
        .arg(format!("--user-data-dir={}", home.display()))
        .args(more);
    command
}

/// What the page said on the console.
fn console(log: &str) -> Vec<&str> {
    log.lines().filter(|line| line.contains("CONSOLE")).collect()
}

/// Takes a picture; gives what was said on the console.
async fn picture(url: &str, name: &str, more: &[&str]) -> Vec<String> {
    let home = tempfile::tempdir().unwrap();
    let file = pictures().join(format!("{name}.png"));
    let _ = fs::remove_file(&file);
    let screenshot = format!("--screenshot={}", file.display());
    let mut arguments = vec![screenshot.as_str()];
    arguments.extend(more);
    arguments.push(url);
    let (_, log) = tool(chromium(home.path(), &arguments)).await;
    let size = fs::metadata(&file).unwrap_or_else(|error| panic!("{name}: {error}\n{log}")).len();
    assert!(size > 5000, "{name} is an empty picture of {size} bytes\n{log}");
    console(&log).into_iter().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_renders_and_the_browser_has_nothing_to_say() {
    const LIGHT: &[&str] = &["--window-size=1280,1400"];
    const DARK: &[&str] = &["--window-size=1280,1400", "--force-dark-mode"];
    for (overview, names, name, more) in [
        (young(), false, "young", LIGHT),
        (calm(), false, "calm", LIGHT),
        (calm(), false, "calm-dark", DARK),
        (troubled(), true, "troubled", LIGHT),
        (hostile(), true, "hostile", LIGHT),
    ] {
        let serving = Serving::of(overview, names, Router::new()).await;
        assert_eq!(picture(&serving.url, name, more).await, [""; 0], "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_with_a_fault_is_noticed() {
    let faulty = Router::new().route("/faulty", get(async || Html(FAULTY)));
    let serving = Serving::of(young(), false, faulty).await;
    let home = tempfile::tempdir().unwrap();
    let url = format!("{}/faulty", serving.url);
    let (_, log) = tool(chromium(home.path(), &["--dump-dom", &url])).await;
    assert!(console(&log).iter().any(|line| line.contains("a fault of this page")), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_fits_a_phone() {
    for (overview, name) in [(calm(), "phone-calm"), (troubled(), "phone-troubled")] {
        let phone = Router::new().route("/phone", get(async || Html(PHONE)));
        let serving = Serving::of(overview, true, phone).await;
        let url = format!("{}/phone", serving.url);
        picture(&url, name, &["--window-size=500,4400"]).await;
        let home = tempfile::tempdir().unwrap();
        let (_, dom) = tool(chromium(home.path(), &["--dump-dom", &url])).await;
        assert!(dom.contains("width 390 of 390"), "{name}: {dom}");
    }
}
