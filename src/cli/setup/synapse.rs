//! `setup synapse`: the server admin that the service works as, its access token, and its rate limit.

use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret as _, SecretString};
use serde_json::json;
use url::Url;

use super::{
    arguments::SynapseAdmin,
    confirm,
    files::{self, FOR_THE_OWNER, FileStep},
    oidc::service_owner,
    questions::Questions,
    refuse, wishes,
};
use crate::{
    assemble::SystemClock,
    cli::{
        arguments::Global,
        output::{Exit, ask, complain, complain_failure, say, say_json},
        page::{self, Page},
    },
    config::{
        homeserver::{Homeserver, SharedSecret},
        read_secret,
    },
    domain::{Failure, FailureClass, Mxid, Peer},
    http::HttpOptions,
    ports::{Clock as _, Homeserver as _},
    synapse::{self, NewAdmin, Synapse, register_admin},
};

/// What is known before Synapse is asked.
struct Wishes {
    url: Url,
    token_file: PathBuf,
    homeserver: Option<Homeserver>,
    http: HttpOptions,
}

pub(super) async fn synapse(global: &Global, verb: &SynapseAdmin) -> Result<Exit, Exit> {
    let wishes = gather(&wishes::whole(&global.config)?, verb)?;
    let present = present(&wishes).await?;
    let unlimited = match &present {
        Some((synapse, own)) => {
            synapse.is_unlimited(own).await.map_err(|failure| complain_failure(&failure))?
        }
        None => false,
    };
    let make = present.is_none();
    let offer = !verb.go.yes && !verb.go.dry_run && Questions::new().can_be_asked();
    let lift = !unlimited
        && (verb.lift_rate_limit
            || offer
                && ask(
                    "Take Synapse's rate limit off for this account, so that many changes need not wait?",
                    "--lift-rate-limit",
                ));
    let replaces = make && wishes.token_file.exists();
    let plan = show_plan(&wishes, verb, present.as_ref().map(|(_, own)| own), lift, unlimited);
    if replaces && !verb.go.replace {
        complain(&format!(
            "error: {} is there already, and the token in it is good for nothing; nothing was changed\n  → give \
             --replace to replace it (a copy is kept beside it), and another --localpart if the account is there, too",
            wishes.token_file.display()
        ));
        return Err(Exit::Failed);
    }
    let secret = if make { Some(shared_secret(&wishes, verb)?) } else { None };
    if verb.go.dry_run || !(make || lift) {
        give(global, &plan, present.as_ref().map(|(_, own)| own), &wishes, false)?;
        return Ok(Exit::Done);
    }
    if !verb.go.yes {
        complain(&plan);
    }
    confirm(verb.go.yes)?;
    let (synapse, own) = match (present, secret) {
        (Some(present), _) => present,
        (None, Some(secret)) => make_admin(&wishes, verb, &secret).await?,
        (None, None) => return Err(Exit::Failed),
    };
    if lift {
        synapse.lift_limit(&own).await.map_err(|failure| complain_failure(&failure))?;
    }
    let info = synapse.identify().await.map_err(|failure| complain_failure(&failure))?;
    let mut page = Page::new(page::width());
    page.heading("Done:");
    page.line("  - ", &format!("{} is a server admin of Synapse {}", info.own, info.version));
    page.line("  - ", &format!("its access token is in {} (mode 0600)", wishes.token_file.display()));
    if lift {
        page.line("  - ", "Synapse's rate limit does not hold for it");
    } else if !unlimited {
        page.line("  - ", "Synapse's rate limit holds for it; --lift-rate-limit takes it off");
    }
    note_lifetime(&mut page, &wishes);
    page.heading("Next:");
    page.line("  - ", "`defguard-synapse-sync setup oidc` ties Synapse to Defguard, if it is not yet");
    page.line("  - ", "`defguard-synapse-sync check` asks both servers whether all of it fits");
    give(global, &page.finish(), Some(&info.own), &wishes, true)?;
    Ok(Exit::Done)
}

fn gather(config: &Path, verb: &SynapseAdmin) -> Result<Wishes, Exit> {
    let outline = wishes::outline(config)?;
    let mut questions = Questions::new();
    let given = &verb.homeserver.homeserver_config;
    // With a file for the secret the homeserver's config is of no other use here.
    let homeserver = if verb.shared_secret_file.is_some() && given.is_empty() {
        None
    } else {
        Some(wishes::homeserver_config(given, &outline, &mut questions)?)
    };
    let url = questions.text(
        "--synapse-url",
        "Address of Synapse's main process, from here",
        verb.synapse_url.clone().or(outline.synapse_url),
        Some("http://127.0.0.1:8008"),
    );
    questions.finish()?;
    let ca_file = verb.synapse_ca_file.clone().or(outline.synapse_ca_file);
    let ca_pem = ca_file.map(std::fs::read).transpose().map_err(|error| {
        refuse(
            &format!("the certificate authorities cannot be read: {error}"),
            "give another --synapse-ca-file",
        )
    })?;
    let beside = || config.parent().unwrap_or(Path::new("/")).join("synapse-token");
    let token_file = verb.token_file.clone().or(outline.synapse_token_file).unwrap_or_else(beside);
    Ok(Wishes {
        url: wishes::address(&url, "--synapse-url")?,
        token_file: wishes::whole(&token_file)?,
        homeserver: homeserver.map(|paths| wishes::survey(&paths)).transpose()?,
        http: HttpOptions { ca_pem, ..HttpOptions::default() },
    })
}

/// The account whose token is there already, if the token is good. One that cannot be asked about is no reason to make
/// another.
async fn present(wishes: &Wishes) -> Result<Option<(Synapse, Mxid)>, Exit> {
    if !wishes.token_file.exists() {
        return Ok(None);
    }
    let Ok(token) = read_secret(&wishes.token_file) else { return Ok(None) };
    let synapse = client(wishes, token).map_err(|failure| complain_failure(&failure))?;
    match synapse.identify().await {
        Ok(info) => Ok(Some((synapse, info.own))),
        Err(failure) if failure.class == FailureClass::Unauthorised => Ok(None),
        Err(failure) => Err(complain_failure(&failure)),
    }
}

fn client(wishes: &Wishes, token: SecretString) -> Result<Synapse, Failure> {
    Synapse::new(synapse::Options { url: wishes.url.clone(), token, http: wishes.http.clone() })
}

fn shared_secret(wishes: &Wishes, verb: &SynapseAdmin) -> Result<SecretString, Exit> {
    let unreadable = |path: &Path, why: &str| {
        refuse(
            &format!("the registration shared secret cannot be read from {}: {why}", path.display()),
            "run this as root, or give --shared-secret-file",
        )
    };
    if let Some(file) = &verb.shared_secret_file {
        return read_secret(file).map_err(|why| unreadable(file, &why));
    }
    match wishes.homeserver.as_ref().and_then(|homeserver| homeserver.shared_secret.as_ref()) {
        Some(SharedSecret::Inline(secret)) => Ok(secret.clone()),
        Some(SharedSecret::File(file)) => read_secret(file).map_err(|why| unreadable(file, &why)),
        None => {
            complain(&format!(
                "error: the homeserver's config has no registration shared secret, by which an account could be made \
                 here\n  → set registration_shared_secret_path in homeserver.yaml, restart Synapse, and run this again\n  \
                 → or do it by hand: let a server admin make an account `{}` and PUT {{\"admin\": true}} to \
                 /_synapse/admin/v1/users/<its MXID>/admin; then log it in and put the access token into {} (README, \
                 Install)",
                verb.localpart,
                wishes.token_file.display()
            ));
            Err(Exit::Failed)
        }
    }
}

/// Makes the account, and keeps its token before anything else can fail.
async fn make_admin(
    wishes: &Wishes,
    verb: &SynapseAdmin,
    secret: &SecretString,
) -> Result<(Synapse, Mxid), Exit> {
    let admin = NewAdmin {
        localpart: verb.localpart.clone(),
        display_name: "Defguard sync".to_owned(),
        password: password(),
    };
    // A token that cannot be kept would be lost, and its account with it.
    files::write(
        &wishes.token_file,
        &SecretString::from("none yet"),
        FOR_THE_OWNER,
        service_owner(),
        SystemClock.now(),
    )
    .map_err(complain_file)?;
    let made = register_admin(&wishes.url, wishes.http.clone(), secret, &admin).await;
    let made = match made {
        Ok(made) => made,
        Err(failure) => {
            let _ = std::fs::remove_file(&wishes.token_file);
            return Err(complain_failure(&failure));
        }
    };
    overwrite(&wishes.token_file, &made.token).map_err(complain_file)?;
    let synapse = client(wishes, made.token).map_err(|failure| complain_failure(&failure))?;
    let own = synapse.identify().await.map_err(|failure| complain_failure(&failure))?.own;
    if own.as_str() != made.mxid {
        let failure = Failure::new(
            Peer::Synapse,
            FailureClass::Malformed,
            "making the server admin of this service",
            format!("{} was made, but the token is {own}'s", made.mxid),
        );
        return Err(complain_failure(&failure.mend("see whether a proxy before Synapse mixes up requests")));
    }
    Ok((synapse, own))
}

/// Puts the token into the place that was made for it.
fn overwrite(path: &Path, token: &SecretString) -> Result<(), String> {
    std::fs::write(path, format!("{}\n", token.expose_secret()))
        .map_err(|error| format!("cannot write {}: {error}", path.display()))
}

fn complain_file(why: String) -> Exit {
    complain(&format!("error: {why}"));
    Exit::Failed
}

/// A password that nobody knows or needs: 256 random bits.
#[allow(clippy::disallowed_methods, reason = "randomness is drawn here, at the edge")]
fn password() -> SecretString {
    let (high, low): (u128, u128) = (rand::random(), rand::random());
    format!("{high:032x}{low:032x}").into()
}

fn show_plan(
    wishes: &Wishes,
    verb: &SynapseAdmin,
    present: Option<&Mxid>,
    lift: bool,
    unlimited: bool,
) -> String {
    let mut page = Page::new(page::width());
    let file = wishes.token_file.display();
    match present {
        Some(own) => {
            page.heading(if lift { "What would be done:" } else { "Nothing is to be done:" });
            page.line("  - ", &format!("{file} has the access token of {own}, who is a server admin"));
        }
        None => {
            page.heading("What would be done:");
            page.line(
                "  - ",
                &format!("make the server admin `{}` in Synapse at {}", verb.localpart, wishes.url),
            );
            let step = if wishes.token_file.exists() { FileStep::Replace } else { FileStep::Write };
            let verb = if step == FileStep::Replace { "replace" } else { "write" };
            page.line("  - ", &format!("{verb} {file} (its access token; mode 0600)"));
        }
    }
    if lift {
        page.line("  - ", "take Synapse's rate limit off for it");
    } else if !unlimited {
        page.line(
            "  - ",
            "leave Synapse's rate limit on for it: changes of many names or rooms at once wait, or fail with 429. \
             --lift-rate-limit takes it off",
        );
    }
    note_lifetime(&mut page, wishes);
    page.finish()
}

fn note_lifetime(page: &mut Page, wishes: &Wishes) {
    if let Some(place) =
        wishes.homeserver.as_ref().and_then(|homeserver| homeserver.session_lifetime.as_ref())
    {
        page.heading("Mind:");
        page.line(
            "  - ",
            &format!(
                "{place} ends every access token after that time, this one too, and the service stops working then. \
                 Take it out, or renew the token by then."
            ),
        );
    }
}

fn give(global: &Global, text: &str, own: Option<&Mxid>, wishes: &Wishes, done: bool) -> Result<(), Exit> {
    if global.json {
        return say_json(&json!({"done": done, "account": own, "token_file": wishes.token_file}));
    }
    say(text);
    Ok(())
}
