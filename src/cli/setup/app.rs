//! Which OpenID app in Defguard is the homeserver's, and what is to be corrected about it. Pure.

use crate::defguard::{App, AppData};

/// What is to be done about the app.
#[derive(Debug, Clone)]
pub(super) enum AppStep {
    /// There is none.
    Create(AppData),
    /// It is there, and right.
    Keep(App),
    /// It is there, and lacks something.
    Correct {
        /// The app.
        app: App,
        /// As it is to be.
        to: AppData,
        /// What is changed, for people.
        changes: Vec<String>,
    },
}

/// Why no app can be chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Undecided {
    /// No app has the client id that was asked for.
    NoSuch,
    /// Several could be meant; their client ids.
    Several(Vec<String>),
}

/// Chooses the app: the one that was asked for, else one that the homeserver's config uses already, else one that leads
/// back to this homeserver, else one of the same name. Names are not unique in Defguard, so several can be meant; then
/// none is chosen, and none is made.
pub(super) fn choose(
    apps: &[App],
    wanted: &AppData,
    in_use: &[String],
    asked_for: Option<&str>,
) -> Result<AppStep, Undecided> {
    if let Some(client_id) = asked_for {
        let app = apps.iter().find(|app| app.client_id == client_id).ok_or(Undecided::NoSuch)?;
        return Ok(correct(app, wanted));
    }
    let leads_here = |app: &App| wanted.redirect_uris.iter().all(|uri| app.data.redirect_uris.contains(uri));
    let same_name = |app: &App| app.data.name == wanted.name;
    let tiers: [&dyn Fn(&App) -> bool; 4] = [
        &|app| in_use.contains(&app.client_id),
        &|app| leads_here(app) && same_name(app),
        &leads_here,
        &same_name,
    ];
    for tier in tiers {
        let found: Vec<&App> = apps.iter().filter(|app| tier(app)).collect();
        match found.as_slice() {
            [] => {}
            [app] => return Ok(correct(app, wanted)),
            several => {
                return Err(Undecided::Several(several.iter().map(|app| app.client_id.clone()).collect()));
            }
        }
    }
    Ok(AppStep::Create(wanted.clone()))
}

/// Adds what is missing. What an app has beyond that stays: another homeserver may live by it.
fn correct(app: &App, wanted: &AppData) -> AppStep {
    let mut to = app.data.clone();
    let mut changes = Vec::new();
    for uri in &wanted.redirect_uris {
        if !to.redirect_uris.contains(uri) {
            to.redirect_uris.push(uri.clone());
            changes.push(format!("let it lead back to {uri}, too"));
        }
    }
    let missing: Vec<&String> =
        wanted.scopes.iter().filter(|scope| !app.data.scopes.contains(scope)).collect();
    if !missing.is_empty() {
        let names: Vec<&str> = missing.iter().map(|scope| scope.as_str()).collect();
        to.scopes.extend(missing.into_iter().cloned());
        changes.push(format!(
            "give it the scopes {}; everybody is asked for consent once more, as Defguard forgets it when scopes change",
            names.join(", ")
        ));
    }
    if !to.enabled {
        to.enabled = true;
        changes.push("enable it".to_owned());
    }
    if changes.is_empty() {
        AppStep::Keep(app.clone())
    } else {
        AppStep::Correct { app: app.clone(), to, changes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: &str = "https://m.example.org/_synapse/client/oidc/callback";

    fn wanted() -> AppData {
        AppData {
            name: "Matrix".to_owned(),
            redirect_uris: vec![HERE.to_owned()],
            scopes: ["openid", "email"].map(str::to_owned).to_vec(),
            enabled: true,
        }
    }

    fn app(client_id: &str, name: &str, redirect: &str) -> App {
        let data = AppData { name: name.to_owned(), redirect_uris: vec![redirect.to_owned()], ..wanted() };
        App { client_id: client_id.to_owned(), client_secret: "s".to_owned().into(), data }
    }

    fn chosen(apps: &[App], in_use: &[&str], asked_for: Option<&str>) -> String {
        let in_use: Vec<String> = in_use.iter().map(|id| (*id).to_owned()).collect();
        match choose(apps, &wanted(), &in_use, asked_for) {
            Ok(AppStep::Create(data)) => format!("create {}", data.name),
            Ok(AppStep::Keep(app)) => format!("keep {}", app.client_id),
            Ok(AppStep::Correct { app, changes, .. }) => {
                format!("correct {}: {}", app.client_id, changes.len())
            }
            Err(undecided) => format!("{undecided:?}"),
        }
    }

    #[test]
    fn an_app_is_made_only_if_none_can_be_meant() {
        assert_eq!(chosen(&[], &[], None), "create Matrix");
        assert_eq!(chosen(&[app("a", "Grafana", "https://g/")], &[], None), "create Matrix");
        assert_eq!(chosen(&[app("a", "Matrix", "https://old/")], &[], None), "correct a: 1");
        assert_eq!(chosen(&[app("a", "Chat", HERE)], &[], None), "keep a");
    }

    #[test]
    fn the_app_that_synapse_uses_already_comes_before_one_that_only_has_the_name() {
        let apps = [app("a", "Matrix", HERE), app("b", "Other", "https://old/"), app("c", "Matrix", HERE)];
        assert_eq!(chosen(&apps, &["b"], None), "correct b: 1");
        assert_eq!(chosen(&apps, &["gone"], None), r#"Several(["a", "c"])"#);
        assert_eq!(chosen(&apps, &[], Some("c")), "keep c");
        assert_eq!(chosen(&apps, &[], Some("x")), "NoSuch");
    }

    #[test]
    fn a_correction_adds_and_takes_nothing_away() {
        let mut one = app("a", "Matrix", "https://other/");
        one.data.scopes = vec!["openid".to_owned(), "groups".to_owned()];
        one.data.enabled = false;
        let Ok(AppStep::Correct { to, changes, .. }) = choose(&[one], &wanted(), &[], None) else {
            panic!("it is corrected")
        };
        assert_eq!(to.redirect_uris, ["https://other/", HERE]);
        assert_eq!(to.scopes, ["openid", "groups", "email"]);
        assert!(to.enabled);
        assert_eq!(changes.len(), 3);
    }
}
