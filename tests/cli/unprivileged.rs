//! The program as a user without any right, as the unit starts it.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    path::Path,
    process::Command,
};

use crate::{PROGRAM, World};

/// Nobody's number: no file belongs to it that a test does not give it.
pub const NOBODY: u32 = 65534;

/// Whether this test runs as root, who has to give up rights that others do not have.
pub fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

impl World {
    /// A verb as an unprivileged user: without capabilities, groups and the right to get any. Everything in the home
    /// of this world is theirs.
    pub fn unprivileged(&self, arguments: &[&str]) -> Command {
        let mut command = self.as_user(NOBODY, NOBODY, arguments);
        if is_root() {
            give_away(self.home.path());
        } else {
            command = Command::new("setpriv");
            command.args(["--no-new-privs", PROGRAM, "--config"]).arg(self.config()).args(arguments);
            command.env_clear();
        }
        command
    }

    /// A verb as another user, for which this test must be root's.
    pub fn as_user(&self, uid: u32, gid: u32, arguments: &[&str]) -> Command {
        // Where cargo builds, not everybody can look.
        let program = self.home.path().join("program");
        if !program.exists() {
            fs::copy(PROGRAM, &program).unwrap();
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        }
        fs::set_permissions(self.home.path(), fs::Permissions::from_mode(0o711)).unwrap();
        let mut command = Command::new("setpriv");
        command
            .arg(format!("--reuid={uid}"))
            .arg(format!("--regid={gid}"))
            .args(["--clear-groups", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"])
            .arg(program)
            .arg("--config")
            .arg(self.config())
            .args(arguments)
            .env_clear();
        command
    }
}

fn give_away(directory: &Path) {
    chown(directory, Some(NOBODY), Some(NOBODY)).unwrap();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            give_away(&path);
        } else {
            chown(&path, Some(NOBODY), Some(NOBODY)).unwrap();
        }
    }
}
