//! Man pages and completions.

use std::{fs, process::Command};

use tempfile::TempDir;

use crate::{alone, finish};

#[tokio::test]
async fn there_is_a_man_page_for_the_program_and_for_each_verb_and_they_are_valid() {
    let home = TempDir::new().unwrap();
    let directory = home.path().join("man");
    alone(&["generate", "man", directory.to_str().unwrap()], "").await.ends_with(0);
    let names: Vec<String> = fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    for verb in ["", "-run", "-sync", "-plan", "-explain", "-status", "-journal", "-check"] {
        let name = format!("defguard-synapse-sync{verb}.1");
        assert!(names.contains(&name), "{name} is not among {names:?}");
        let text = fs::read_to_string(directory.join(&name)).unwrap();
        assert!(text.contains(".TH") && text.contains(".SH NAME"), "{text}");
    }
    let sync = fs::read_to_string(directory.join("defguard-synapse-sync-sync.1")).unwrap();
    assert!(sync.contains("no\\-wait"), "{sync}");
}

#[tokio::test]
async fn a_shell_takes_the_completions_and_completes_with_them() {
    let home = TempDir::new().unwrap();
    let bash = alone(&["generate", "completions", "bash"], "").await.ends_with(0).out;
    let file = home.path().join("completions");
    fs::write(&file, bash).unwrap();
    let mut command = Command::new("bash");
    command.args(["--norc", "-c"]).arg(format!(
        ". {}; COMP_WORDS=(defguard-synapse-sync sy); COMP_CWORD=1; \
         $(complete -p defguard-synapse-sync | sed 's/.*-F //; s/ .*//') defguard-synapse-sync sy defguard-synapse-sync; echo \"${{COMPREPLY[*]}}\"",
        file.display()
    ));
    assert_eq!(finish(command, "").await.ends_with(0).out, "sync\n");
    for shell in ["zsh", "fish"] {
        assert!(alone(&["generate", "completions", shell], "").await.ends_with(0).out.contains("explain"));
    }
}
