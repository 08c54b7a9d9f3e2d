//! The commands in the README and in `docs/` are right: ours are given to the program itself, beside a real Synapse, and
//! those of others may only be ones whose names, files and options are known here.

use std::{fs, path::Path};

use clap::error::ErrorKind;
use defguard_synapse_sync::cli;
use serde_json::json;

use crate::{World, finish, program, support::defguard::NewPerson};

const NAME: &str = "defguard-synapse-sync";

/// One command of the documentation.
#[derive(Debug)]
struct Written {
    file: String,
    /// What is set for it.
    variables: Vec<(String, String)>,
    words: Vec<String>,
    /// What a pipe gives it to read.
    input: String,
}

impl Written {
    fn program(&self) -> &str {
        &self.words[0]
    }
}

/// All files of the documentation.
fn pages() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = vec![root.join("README.md")];
    for entry in fs::read_dir(root.join("docs")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|end| end == "md") {
            files.push(path);
        }
    }
    files.sort();
    files
        .iter()
        .map(|file| {
            (file.file_name().unwrap().to_str().unwrap().to_owned(), fs::read_to_string(file).unwrap())
        })
        .collect()
}

/// Every command in a `console` block: the lines that begin with a dollar, a pipe being one command after the other.
fn commands() -> Vec<Written> {
    let mut commands = Vec::new();
    for (file, text) in pages() {
        // A block in a list is indented.
        let text: String = text.lines().map(|line| format!("{}\n", line.trim_start())).collect();
        for block in text.split("```console\n").skip(1).map(|rest| rest.split("```").next().unwrap()) {
            let lines: Vec<&str> = block.lines().filter_map(|line| line.strip_prefix("$ ")).collect();
            assert!(!lines.is_empty(), "{file}: a block of commands without any:\n{block}");
            for line in lines {
                let mut input = String::new();
                for part in line.split(" | ") {
                    let command = read(&file, part, std::mem::take(&mut input));
                    if command.program() == "echo" {
                        input = command.words[1..].join(" ");
                    }
                    commands.push(command);
                }
            }
        }
    }
    commands
}

/// Reads a command as a shell would, as far as the documentation goes.
fn read(file: &str, text: &str, input: String) -> Written {
    let mut words = shlex::split(text).unwrap_or_else(|| panic!("{file}: quotes do not close: {text}"));
    if words[0] == "sudo" {
        words.remove(0);
    }
    let mut variables = Vec::new();
    while let Some((name, value)) =
        words[0].split_once('=').filter(|(name, _)| name.chars().all(is_of_a_name))
    {
        variables.push((name.to_owned(), value.to_owned()));
        words.remove(0);
    }
    Written { file: file.to_owned(), variables, words, input }
}

fn is_of_a_name(c: char) -> bool {
    c.is_ascii_uppercase() || c == '_'
}

#[test]
fn every_command_of_ours_in_the_documentation_is_one_that_the_program_takes() {
    let ours: Vec<Written> = commands().into_iter().filter(|command| command.program() == NAME).collect();
    assert!(ours.len() > 15, "{ours:#?}");
    for command in &ours {
        match cli::command().try_get_matches_from(&command.words) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::DisplayHelp => {}
            Err(error) => panic!("{}: {}\n{error}", command.file, command.words.join(" ")),
        }
    }
}

/// Who has to be there for the commands: the names that the documentation uses.
async fn cast(world: &World) {
    for who in ["alice", "bob", "carol"] {
        world.defguard.add_person(NewPerson::named(who));
    }
    world.synapse.put_account("bob", &json!({})).await;
    world.run(&["sync"]).await.ends_with(0);
}

#[tokio::test]
async fn every_command_of_ours_in_the_documentation_does_what_it_is_there_for() {
    let world = World::new("docs").await;
    cast(&world).await;
    let daemon = world.daemon().await;
    for written in commands().into_iter().filter(|command| command.program() == NAME) {
        let mut words: Vec<String> =
            written.words[1..].iter().map(|word| word.replace("example.com", "sync.test")).collect();
        if words[0] == "setup" {
            // These change the homeserver's config; they have tests of their own.
            continue;
        }
        if ["link", "unlink"].contains(&words[0].as_str()) {
            // Nobody can be asked here.
            words.push("--yes".to_owned());
        }
        let mut command = program();
        command.args(&words).env("DEFGUARD_SYNAPSE_SYNC_CONFIG", world.config());
        for (name, _) in &written.variables {
            assert_eq!(name, "CREDENTIALS_DIRECTORY", "{}: {words:?}", written.file);
        }
        let shown = finish(command, &written.input).await;
        // Nothing is held here, so an approval finds nothing of its digest.
        let wanted = if words[0] == "approve" { 4 } else { 0 };
        let (file, line) = (&written.file, words.join(" "));
        assert_eq!(shown.code, wanted, "{file}: {NAME} {line}\n{}{}", shown.out, shown.err);
        assert!(!shown.out.is_empty(), "{}: {words:?} shows nothing", written.file);
    }
    assert_eq!(daemon.end().await.0, 0);
}

#[test]
fn every_other_command_in_the_documentation_names_what_there_is() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let unit = |name: &str| {
        let theirs = name.starts_with("matrix-synapse");
        assert!(theirs || root.join("systemd").join(name).is_file(), "there is no unit {name}");
    };
    for command in commands() {
        let (file, words) = (&command.file, command.words.join(" "));
        match command.program() {
            NAME | "echo" => {}
            "systemctl" => {
                let verbs = [
                    "daemon-reload",
                    "disable",
                    "edit",
                    "enable",
                    "reload",
                    "restart",
                    "start",
                    "status",
                    "stop",
                ];
                assert!(verbs.contains(&command.words[1].as_str()), "{file}: {words}");
                command.words[2..].iter().filter(|word| !word.starts_with("--")).for_each(|name| unit(name));
            }
            "journalctl" => {
                let fields = ["RUN", "PERSON", "MXID", "ACTION"];
                for word in &command.words[1..] {
                    if let Some((field, _)) =
                        word.split_once('=').filter(|(field, _)| !field.starts_with('-'))
                    {
                        assert!(fields.contains(&field), "{file}: {words}");
                    } else if word.starts_with(NAME) {
                        unit(word);
                    }
                }
            }
            "systemd-sysusers" => {
                assert!(root.join("packaging/sysusers.d").join(&command.words[1]).is_file())
            }
            "systemd-tmpfiles" => {
                assert!(root.join("packaging/tmpfiles.d").join(&command.words[2]).is_file())
            }
            "packaging/build.sh" => assert!(root.join(command.program()).is_file()),
            "cargo" => {
                let known =
                    ["install cargo-deb --locked", "test", "run --example sandbox", "build --release"];
                assert!(known.contains(&command.words[1..].join(" ").as_str()), "{file}: {words}");
            }
            "adduser" => assert_eq!(command.words[2], NAME, "{file}: {words}"),
            "apt" | "cp" | "curl" | "install" | "register_new_matrix_user" | "rm" | "tar" => {
                for path in command.words.iter().filter(|word| word.starts_with("/etc/defguard")) {
                    let known =
                        ["/etc/defguard-synapse-sync/credentials/", "/etc/defguard-synapse-sync/config.toml"];
                    assert!(known.iter().any(|known| path.starts_with(known)), "{file}: {words}");
                }
            }
            other => panic!("{file}: nobody has seen to it that {other} can be used so: {words}"),
        }
    }
}
