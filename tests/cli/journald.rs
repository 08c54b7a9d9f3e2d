//! The log of a daemon that systemd started, at a journal that this test plays.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::unix::{fs::MetadataExt as _, net::UnixDatagram},
    process::{Command, Stdio},
    time::Duration,
};

use crate::{PROGRAM, World, support::defguard::NewPerson, unprivileged::is_root};

/// The fields of one entry, as the journal's own protocol has them: `NAME=value` or `NAME`, the length in eight bytes
/// (little-endian) and the value; each ended by a line break.
fn fields(mut entry: &[u8]) -> BTreeMap<String, String> {
    let mut fields = BTreeMap::new();
    while let Some(end) = entry.iter().position(|byte| *byte == b'\n') {
        let line = String::from_utf8(entry[..end].to_vec()).unwrap();
        entry = &entry[end + 1..];
        let (name, value) = match line.split_once('=') {
            Some((name, value)) => (name.to_owned(), value.to_owned()),
            None => {
                let length = usize::try_from(u64::from_le_bytes(entry[..8].try_into().unwrap())).unwrap();
                let value = String::from_utf8(entry[8..8 + length].to_vec()).unwrap();
                entry = &entry[8 + length + 1..];
                (line, value)
            }
        };
        fields.insert(name, value);
    }
    fields
}

/// A daemon with a `/run` of its own, in which the journal's socket leads to ours.
fn started_by_systemd(world: &World, stderr: &File) -> Command {
    let found = stderr.metadata().unwrap();
    let mut command = Command::new("unshare");
    if !is_root() {
        command.arg("--map-root-user");
    }
    command
        .args(["--mount", "sh", "-ec"])
        .arg(
            "mount -t tmpfs tmpfs /run; mkdir -p /run/systemd/journal; ln -s \"$1\" /run/systemd/journal/socket; \
             shift; exec \"$@\"",
        )
        .arg("sh")
        .arg(world.home.path().join("journal"))
        .arg(PROGRAM)
        .arg("--config")
        .arg(world.config())
        .env("JOURNAL_STREAM", format!("{}:{}", found.dev(), found.ino()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(stderr.try_clone().unwrap());
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn the_journal_gets_the_run_the_person_the_account_and_the_action_as_fields() {
    let world = World::new("jd").await;
    let id = world.defguard.add_person(NewPerson::named("jd-ann").email("jd-ann@example.com"));
    let journal = UnixDatagram::bind(world.home.path().join("journal")).unwrap();
    journal.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
    let stderr = File::create(world.home.path().join("stderr")).unwrap();
    let mut daemon = started_by_systemd(&world, &stderr).arg("run").spawn().unwrap();
    let wait = move |wanted: &'static str| {
        let journal = journal.try_clone().unwrap();
        tokio::task::spawn_blocking(move || {
            let mut all = Vec::new();
            loop {
                let mut buffer = vec![0; 1 << 16];
                let length = journal.recv(&mut buffer).unwrap();
                // An empty one only tries whether the journal is there.
                if length == 0 {
                    continue;
                }
                all.push(fields(&buffer[..length]));
                if all.last().unwrap()["MESSAGE"].starts_with(wanted) {
                    return all;
                }
            }
        })
    };
    wait("the daemon is up").await.unwrap();
    world.run(&["sync"]).await.ends_with(0);
    let entries = wait("sync done").await.unwrap();
    let created = entries.iter().find(|entry| entry.get("ACTION").is_some_and(|action| action == "created"));
    let created = created.unwrap_or_else(|| panic!("{entries:#?}"));
    let field = |name: &str| created.get(name).map(String::as_str);
    assert_eq!(field("RUN"), Some("1"), "{created:#?}");
    assert_eq!(field("PERSON"), Some(id.to_string().as_str()));
    assert_eq!(field("MXID"), Some("@jd-ann:sync.test"));
    assert_eq!(field("SYSLOG_IDENTIFIER"), Some("defguard-synapse-sync"));
    for entry in &entries {
        assert!(entry["PRIORITY"].parse::<u8>().unwrap() <= 7);
        for value in entry.values() {
            assert!(!value.contains("@example.com") && !value.contains("Person"), "{entry:#?}");
        }
    }
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    assert_eq!(fs::read_to_string(world.home.path().join("stderr")).unwrap(), "");
}

#[tokio::test]
async fn whoever_asks_for_a_format_gets_it_on_standard_error_also_from_systemd() {
    let world = World::new("jdjson").await;
    let _journal = UnixDatagram::bind(world.home.path().join("journal")).unwrap();
    let stderr = File::create(world.home.path().join("stderr")).unwrap();
    world.write("synapse-token", "syt_wrong");
    let mut sync = started_by_systemd(&world, &stderr);
    sync.args(["sync", "--log-format", "json"]).env("RUST_LOG", "debug");
    let code = tokio::task::spawn_blocking(move || sync.status().unwrap().code()).await.unwrap();
    assert_eq!(code, Some(5));
    let said = fs::read_to_string(world.home.path().join("stderr")).unwrap();
    let objects = said.lines().filter(|line| {
        serde_json::from_str::<serde_json::Value>(line).is_ok_and(|line| line["level"].is_string())
    });
    assert!(objects.count() > 0, "{said}");
}
