//! Finds a secret in the one place where it was put: a file named in the config, a systemd credential, or an
//! environment variable. No finding shows a secret, nor a value that may be one by mistake.

use std::{
    fs::File,
    io::{self, Read as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use secrecy::SecretString;

use super::{
    environment::Environment,
    finding::{Finding, Place},
    raw::{At, Table},
};

/// No secret is longer; it keeps us from reading a device or a log to its end.
const LONGEST: u64 = 64 * 1024;

/// A secret that a table asks for.
pub(super) struct Wanted {
    /// The key that names its file.
    pub(super) key: &'static str,
    /// The name of the systemd credential; the environment variable is named after it.
    pub(super) name: &'static str,
    /// What it is, for findings.
    pub(super) what: &'static str,
}

impl Wanted {
    /// How it can be given, for a finding that it is missing.
    pub(super) fn ways(&self) -> String {
        format!(
            "Put it into /etc/defguard-synapse-sync/credentials/{}, from where systemd hands it over (on a terminal, set \
             CREDENTIALS_DIRECTORY to that directory), or into any file that only this service can read, named with \
             `{}`, or give it in the environment as {}.",
            self.name,
            self.key,
            Environment::secret_variable(self.name)
        )
    }
}

/// Where a secret was given. It may still be unusable.
pub(super) enum Source {
    /// In the file that a key names.
    File(At<String>),
    /// As a systemd credential.
    Credential(PathBuf, Place),
    /// In the environment.
    Variable(String, Place),
}

impl Source {
    /// Where it was given.
    pub(super) fn at(&self) -> &Place {
        match self {
            Self::File(file) => &file.at,
            Self::Credential(_, at) | Self::Variable(_, at) => at,
        }
    }
}

/// Looks up where a secret was given. Two places are an error: one of them would be out of date without a sign.
pub(super) fn source(table: &mut Table<'_, '_>, wanted: &Wanted, env: &Environment) -> Option<Source> {
    let mut sources = Vec::new();
    let config = table.missing(wanted.key);
    if let Some(file) = table.text(wanted.key) {
        sources.push(Source::File(file));
    }
    if let Some(directory) = env.directory("CREDENTIALS_DIRECTORY") {
        let path = directory.join(wanted.name);
        if path.exists() && !is_blank(&path) {
            let at = Place::key(&path, "");
            sources.push(Source::Credential(path, at));
        }
    }
    let variable = Environment::secret_variable(wanted.name);
    if let Some(value) = env.get(&variable) {
        let at = Place::key(&config.file, format!("${variable}"));
        sources.push(Source::Variable(value.to_owned(), at));
    }
    let mut sources = sources.into_iter();
    let first = sources.next()?;
    for other in sources {
        let finding = other.at().error(
            format!("{} is given a second time; it is given here: {}", wanted.what, first.at()),
            "Keep one of the two.",
        );
        table.find(finding);
    }
    Some(first)
}

/// Whether a credential stands for none: the unit gives a blank line where the admin has no file (`SetCredential=`).
fn is_blank(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|found| found.len() <= 1)
        && std::fs::read(path).is_ok_and(|bytes| bytes.trim_ascii().is_empty())
}

/// Reads a secret from where it was given. What is in the way is reported.
pub(super) fn read(table: &mut Table<'_, '_>, wanted: &Wanted, source: &Source) -> Option<SecretString> {
    let text = match source {
        Source::Variable(value, _) => Ok(value.clone()),
        Source::Credential(path, _) => read_file(path).map(|(text, _)| text),
        Source::File(path) => match secret_path(path) {
            Err(finding) => {
                table.find(finding);
                return None;
            }
            Ok(file) => read_file(&file).map(|(text, mode)| {
                if let Some(finding) = mode.and_then(|mode| loose(&path.at, &file, mode)) {
                    table.find(finding);
                }
                text
            }),
        },
    };
    let at = source.at();
    let finding = match text.as_deref().map(|text| text.trim_end_matches(['\r', '\n'])) {
        Err(problem) => at.error(format!("{} cannot be read: {problem}", wanted.what), wanted.ways()),
        Ok("") => at.error(format!("{} is empty", wanted.what), wanted.ways()),
        Ok(secret) if secret.chars().any(char::is_control) => at.error(
            format!("{} has more than one line, or a control character in it", wanted.what),
            "Leave nothing but the secret itself in it; a line break at the end does no harm.",
        ),
        Ok(secret) => return Some(SecretString::from(secret)),
    };
    table.find(finding);
    None
}

/// Reads a secret from a file that is named on the command line. The error says why not.
pub fn read_secret(path: &Path) -> Result<SecretString, String> {
    let (text, _) = read_file(path)?;
    match text.trim_end_matches(['\r', '\n']) {
        "" => Err("it is empty".to_owned()),
        secret if secret.chars().any(char::is_control) => {
            Err("it has more than one line, or a control character in it".to_owned())
        }
        secret => Ok(SecretString::from(secret)),
    }
}

/// The path of a secret's file. What is no path may be the secret itself.
fn secret_path(path: &At<String>) -> Result<PathBuf, Finding> {
    absolute(path).map_err(|_| path.at.error(
        "this is not an absolute path (it is not shown here, since it may be a secret that was put here by mistake)",
        "Write the path of the file from the root on, such as \"/etc/defguard-synapse-sync/…\". If it was a secret, \
         make a new one.",
    ))
}

/// The path that a key names, from the root on: nobody should have to think of a service's working directory.
pub(super) fn absolute(path: &At<String>) -> Result<PathBuf, Finding> {
    if Path::new(&path.value).is_absolute() {
        return Ok(PathBuf::from(&path.value));
    }
    Err(path.at.error(
        "this is not an absolute path, and a service has no directory of its own to start from",
        "Write the path from the root on, beginning with a slash.",
    ))
}

/// What a path begins with that lies in the directory of systemd's credentials.
const CREDENTIALS: &str = "$CREDENTIALS_DIRECTORY/";

/// The same, or a systemd credential.
pub(super) fn absolute_or_credential(path: &At<String>, env: &Environment) -> Result<PathBuf, Finding> {
    let Some(name) = path.value.strip_prefix(CREDENTIALS) else { return absolute(path) };
    match env.directory("CREDENTIALS_DIRECTORY") {
        Some(directory) => Ok(directory.join(name)),
        None => Err(path.at.error(
            "this is a systemd credential, and there are none here",
            format!(
                "Start it by systemd, with LoadCredential={name}:/its/path in the unit, or set CREDENTIALS_DIRECTORY \
                 to a directory with a file of this name."
            ),
        )),
    }
}

/// Reads a text file, and its mode if it is a plain file. The error says why not; it shows neither the content nor the
/// path, in whose place somebody may have written the secret itself.
fn read_file(path: &Path) -> Result<(String, Option<u32>), String> {
    let explain = |error: io::Error| explain_io(&error);
    let file = File::open(path).map_err(explain)?;
    let metadata = file.metadata().map_err(explain)?;
    let mode = metadata.is_file().then(|| metadata.permissions().mode());
    let mut bytes = Vec::new();
    file.take(LONGEST + 1).read_to_end(&mut bytes).map_err(explain)?;
    if bytes.len() as u64 > LONGEST {
        return Err(format!("it is longer than {LONGEST} bytes, so it is no secret"));
    }
    let text = String::from_utf8(bytes).map_err(|_| "it is not UTF-8 text".to_owned())?;
    Ok((text, mode))
}

/// What the system says about a file, in words that name the mend.
pub(super) fn explain_io(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such file".to_owned(),
        io::ErrorKind::PermissionDenied => "the user that this runs as may not read it".to_owned(),
        io::ErrorKind::IsADirectory => "it is a directory".to_owned(),
        _ => error.to_string(),
    }
}

/// A group may read a secret (`root:defguard-synapse-sync 0640` is usual), everybody may not.
fn loose(at: &Place, file: &Path, mode: u32) -> Option<Finding> {
    let problem = match mode {
        mode if mode & 0o004 != 0 => "everybody on this machine can read the secret",
        mode if mode & 0o022 != 0 => "others than the owner can change the secret",
        _ => return None,
    };
    Some(at.warning(
        format!("{problem} (mode {:04o})", mode & 0o7777),
        format!("chmod 0400 {0}, or 0440 if the service reads it by its group.", file.display()),
    ))
}
