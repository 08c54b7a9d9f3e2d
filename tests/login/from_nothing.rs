//! From an empty Defguard and an empty Synapse to a login, by commands alone.

use std::{fs, os::unix::fs::PermissionsExt as _};

use crate::{
    house::{PASSWORD, oidc_arguments, run, secret, texts},
    support::{
        browser::Browser,
        defguard::{ADMIN_PASSWORD, NewPerson, StandIn},
        synapse::{Options, Synapse},
    },
};

#[tokio::test(flavor = "multi_thread")]
async fn two_commands_and_a_restart_lead_from_nothing_to_a_login_in_the_right_account() {
    let defguard = StandIn::start().await;
    defguard.serve_logins();
    let options = Options {
        server_name: "empty.test".to_owned(),
        oidc_provider: None,
        admin: false,
        ..Options::default()
    };
    let mut synapse = Synapse::start(options).await.unwrap();
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    // The one thing that only the admin knows.
    secret(&home.join("defguard-password"), ADMIN_PASSWORD);

    let files = [synapse.config_file(), synapse.config_directory()].map(|path| path.display().to_string());
    let url = synapse.url();
    let setup_synapse = [
        "setup",
        "synapse",
        "--yes",
        "--lift-rate-limit",
        "--synapse-url",
        &url,
        "--homeserver-config",
        &files[0],
        "--homeserver-config",
        &files[1],
    ];
    run(home, &setup_synapse).await.ends_with(0);
    let token = fs::read_to_string(home.join("synapse-token")).unwrap();
    assert_eq!(fs::metadata(home.join("synapse-token")).unwrap().permissions().mode() & 0o7777, 0o600);
    synapse.look_as("@defguard-sync:empty.test", token.trim());

    let arguments = oidc_arguments(&defguard, &synapse);
    run(home, &texts(&arguments)).await.ends_with(0);
    assert_eq!(defguard.apps().len(), 1);
    synapse.start_again().await.unwrap();

    run(home, &["check"]).await.ends_with(0);
    for (name, first, last) in [("alice", "Alice", "Liddell"), ("Bob.B", "Robert", "Builder")] {
        defguard.add_person(NewPerson::named(name).name(first, last).password(Some(PASSWORD)));
    }
    run(home, &["sync"]).await.ends_with(0);
    for (name, mxid, shown) in
        [("alice", "@alice:empty.test", "Alice Liddell"), ("Bob.B", "@bob.b:empty.test", "Robert Builder")]
    {
        let outcome = Browser::default().log_in(&synapse, "oidc-Defguard", name, PASSWORD).await;
        assert_eq!(outcome.mxid(), mxid);
        let localpart = mxid.trim_start_matches('@').trim_end_matches(":empty.test");
        assert_eq!(synapse.account(localpart).await.body["displayname"], shown);
    }
    let names: Vec<String> =
        synapse.accounts().await.iter().map(|account| account["name"].as_str().unwrap().to_owned()).collect();
    assert_eq!(names, ["@alice:empty.test", "@bob.b:empty.test", "@defguard-sync:empty.test"]);

    // Once more: nothing is made twice, and nothing is left to do.
    let again = run(home, &["setup", "oidc"]).await.ends_with(0);
    assert!(again.out.contains("Nothing is to be done"), "{}", again.out);
    let again = run(home, &["setup", "synapse", "--lift-rate-limit"]).await.ends_with(0);
    assert!(again.out.contains("Nothing is to be done"), "{}", again.out);
    assert_eq!(defguard.apps().len(), 1);
    assert_eq!(synapse.accounts().await.len(), 3);
}
