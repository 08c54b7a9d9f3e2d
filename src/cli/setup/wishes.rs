//! What `setup oidc` is to work with: from the arguments, from the config of this service if there is one, from the
//! homeserver's config, and from answers.

use std::path::{Path, PathBuf, absolute};

use secrecy::SecretString;
use url::Url;

use super::{arguments::Oidc, questions::Questions, refuse};
use crate::{
    cli::output::{Exit, complain, complain_findings},
    config::{
        Outline,
        homeserver::{self, Homeserver},
        read_secret,
    },
};

/// Everything that is known before a server is asked.
pub(super) struct Wishes {
    pub(super) defguard_url: Url,
    pub(super) login: DefguardLogin,
    pub(super) defguard_ca_file: Option<PathBuf>,
    pub(super) synapse_url: Url,
    pub(super) synapse_token_file: PathBuf,
    pub(super) homeserver_config: Vec<PathBuf>,
    pub(super) homeserver: Homeserver,
    /// Where people reach the homeserver, with a slash at the end.
    pub(super) public_baseurl: String,
    /// The `idp_id` of this service's config.
    pub(super) idp_id: Option<String>,
}

/// How Defguard is logged in to, with the files in which the secrets are, or are to be.
pub(super) enum DefguardLogin {
    Token {
        file: PathBuf,
        token: SecretString,
    },
    Password {
        username: String,
        file: PathBuf,
        password: SecretString,
        /// Whether the password was typed, so that its file is to be written.
        typed: bool,
        totp_secret_file: Option<PathBuf>,
        totp_secret: Option<SecretString>,
    },
}

/// The config of this service, as far as it says where things are.
pub(super) fn outline(config: &Path) -> Result<Outline, Exit> {
    match Outline::read(config) {
        Ok(outline) => Ok(outline.unwrap_or_default()),
        Err(why) => Err(refuse(
            &format!("{} is there, but {why}", config.display()),
            "mend it, or move it away: it is written anew then",
        )),
    }
}

/// The homeserver's files: those that are given, else those of the config, else Debian's, else what is typed.
pub(super) fn homeserver_config(
    given: &[PathBuf],
    outline: &Outline,
    questions: &mut Questions,
) -> Result<Vec<PathBuf>, Exit> {
    let usual = homeserver::usual_paths();
    let known = [given, &outline.homeserver_config, &usual].into_iter().find(|paths| !paths.is_empty());
    let paths = match known {
        Some(paths) => paths.to_vec(),
        None => {
            let typed = questions.text(
                "--homeserver-config",
                "Synapse's config (files and directories, with blanks between them, in Synapse's order)",
                None,
                None,
            );
            typed.split_whitespace().map(PathBuf::from).collect()
        }
    };
    paths.iter().map(|path| whole(path)).collect()
}

/// A path from the root on.
pub(super) fn whole(path: &Path) -> Result<PathBuf, Exit> {
    absolute(path)
        .map_err(|error| refuse(&format!("{} is no path: {error}", path.display()), "give another one"))
}

/// An address of a server.
pub(super) fn address(text: &str, flag: &str) -> Result<Url, Exit> {
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    url.ok_or_else(|| {
        refuse(&format!("`{text}` is no address"), &format!("give {flag} like https://host.example.com"))
    })
}

/// Reads the homeserver's files; what is wrong with them is shown.
pub(super) fn survey(paths: &[PathBuf]) -> Result<Homeserver, Exit> {
    homeserver::survey(paths).map_err(|findings| {
        complain_findings(&findings);
        Exit::Usage
    })
}

fn secret(path: &Path) -> Result<SecretString, Exit> {
    read_secret(path).map_err(|why| {
        refuse(
            &format!("{} cannot be used: {why}", path.display()),
            "put nothing but the secret into the file",
        )
    })
}

/// Finds out everything that can be known without asking a server.
pub(super) fn gather(config: &Path, verb: &Oidc) -> Result<Wishes, Exit> {
    let outline = outline(config)?;
    let beside = |name: &str| config.parent().unwrap_or(Path::new("/")).join(name);
    let mut questions = Questions::new();
    let access = &verb.defguard;
    let url = questions.text(
        "--defguard-url",
        "Address of Defguard's web page",
        access.defguard_url.clone().or_else(|| outline.defguard_url.clone()),
        None,
    );
    let token_file = access
        .defguard_token_file
        .clone()
        .or_else(|| outline.defguard_token_file.clone().filter(|_| access.defguard_username.is_none()));
    let login = match token_file {
        Some(file) => {
            let file = whole(&file)?;
            DefguardLogin::Token { token: secret(&file)?, file }
        }
        None => {
            let username = questions.text(
                "--defguard-username",
                "Administrator of Defguard that this service logs in as",
                access.defguard_username.clone().or_else(|| outline.defguard_username.clone()),
                None,
            );
            let file =
                access.defguard_password_file.clone().or_else(|| outline.defguard_password_file.clone());
            let file = whole(&file.unwrap_or_else(|| beside("defguard-password")))?;
            let typed = !file.exists();
            let password = if typed {
                questions.password("--defguard-password-file", &format!("Password of {username} in Defguard"))
            } else {
                secret(&file)?
            };
            let totp_secret_file = access
                .defguard_totp_secret_file
                .clone()
                .or_else(|| outline.defguard_totp_secret_file.clone());
            let totp_secret_file = totp_secret_file.map(|file| whole(&file)).transpose()?;
            let totp_secret = totp_secret_file.as_deref().map(secret).transpose()?;
            DefguardLogin::Password { username, file, password, typed, totp_secret_file, totp_secret }
        }
    };
    let homeserver_config = homeserver_config(&verb.homeserver.homeserver_config, &outline, &mut questions)?;
    let synapse_url = questions.text(
        "--synapse-url",
        "Address of Synapse's main process, from here",
        verb.synapse_url.clone().or(outline.synapse_url),
        Some("http://127.0.0.1:8008"),
    );
    questions.finish()?;
    let homeserver = survey(&homeserver_config)?;
    let public_baseurl = verb
        .public_baseurl
        .clone()
        .map(|url| if url.ends_with('/') { url } else { format!("{url}/") })
        .or_else(|| homeserver.public_baseurl.clone())
        .ok_or_else(|| {
            refuse(
                "the homeserver's config has neither public_baseurl nor server_name",
                "name all of Synapse's files with --homeserver-config, or give --public-baseurl",
            )
        })?;
    address(&public_baseurl, "--public-baseurl")?;
    let synapse_token_file = verb.synapse_token_file.clone().or(outline.synapse_token_file);
    let defguard_ca_file = access.defguard_ca_file.clone().or(outline.defguard_ca_file);
    let wishes = Wishes {
        defguard_url: address(&url, "--defguard-url")?,
        login,
        defguard_ca_file: defguard_ca_file.map(|file| whole(&file)).transpose()?,
        synapse_url: address(&synapse_url, "--synapse-url")?,
        synapse_token_file: whole(&synapse_token_file.unwrap_or_else(|| beside("synapse-token")))?,
        homeserver_config,
        homeserver,
        public_baseurl,
        idp_id: outline.idp_id,
    };
    if verb.public_baseurl.is_some()
        && wishes.homeserver.public_baseurl.as_ref() != Some(&wishes.public_baseurl)
    {
        complain(&format!(
            "warning: Synapse's own config leads to {}\n  → set public_baseurl there to {}, or logins are refused",
            wishes.homeserver.public_baseurl.as_deref().unwrap_or("nowhere"),
            wishes.public_baseurl
        ));
    }
    Ok(wishes)
}
