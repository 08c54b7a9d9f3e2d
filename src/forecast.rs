//! What Synapse would do at a person's next login by OIDC, worked out from its own rules, and whether that is what we
//! want. Pure.
//!
//! The rules are those of Synapse 1.163 (`synapse/handlers/oidc.py`, `_complete_oidc_login`;
//! `synapse/handlers/sso.py`, `complete_sso_login_request`; `docs/facts/synapse.md` section 9): the external id first,
//! then with `allow_existing_users` the localpart, then a new account with the first free number behind the localpart.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::{Deserialize, Serialize};

use crate::domain::{
    AccountSummary, DefguardId, Failure, Localpart, Lookup, Mapped, MappedField, MappingError, Mxid, Person,
    ServerName, Username,
};

/// Synapse gives up after so many suffixes (`SsoHandler._MAP_USERNAME_RETRIES`).
const MOST_SUFFIXES: u32 = 1000;

/// How homeserver.yaml has Synapse deal with logins. The default is Synapse's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoginRules {
    /// `allow_existing_users` of the provider: an account with the right localpart is linked.
    pub allow_existing_users: bool,
    /// `enable_registration` of the provider: whoever has no account gets one.
    pub enable_registration: bool,
    /// `sso.update_profile_information`: the templates are rendered at each login.
    pub update_profile_information: bool,
    /// Whether this was read from homeserver.yaml, instead of being Synapse's defaults.
    pub known: bool,
}

impl Default for LoginRules {
    fn default() -> Self {
        Self {
            allow_existing_users: false,
            enable_registration: true,
            update_profile_information: false,
            known: false,
        }
    }
}

/// The names of all accounts, as Synapse compares them.
#[derive(Debug)]
pub struct Names<'a> {
    server: &'a ServerName,
    accounts: &'a BTreeMap<Mxid, AccountSummary>,
    /// By the MXID in lower case; old accounts can differ in case only.
    lower: BTreeMap<String, Vec<&'a Mxid>>,
}

impl<'a> Names<'a> {
    /// Sorts the accounts of the homeserver.
    pub fn new(server: &'a ServerName, accounts: &'a BTreeMap<Mxid, AccountSummary>) -> Self {
        let mut lower: BTreeMap<String, Vec<&Mxid>> = BTreeMap::new();
        for mxid in accounts.keys() {
            lower.entry(mxid.as_str().to_lowercase()).or_default().push(mxid);
        }
        Self { server, accounts, lower }
    }

    /// The accounts that Synapse takes for `mxid`, whatever their case.
    fn like(&self, mxid: &Mxid) -> &[&'a Mxid] {
        self.lower.get(mxid.as_str()).map_or(&[], Vec::as_slice)
    }
}

/// What Synapse would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Login {
    /// Defguard itself lets nobody in who is disabled.
    NotLetIn,
    /// It opens the account that carries their external id.
    Opens {
        /// The account.
        mxid: Mxid,
    },
    /// It puts their external id on the account that has the localpart, and opens it (`allow_existing_users`).
    Links {
        /// The account.
        mxid: Mxid,
    },
    /// It makes an account.
    Creates {
        /// The account.
        mxid: Mxid,
        /// The account that has the name which the template gives, if a number had to be put behind it.
        taken: Option<Mxid>,
    },
    /// It ends with an error.
    Refused {
        /// Why.
        why: Refusal,
    },
    /// It cannot be said.
    Unclear {
        /// Why not.
        why: String,
    },
}

/// Why a login ends with an error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "reason")]
pub enum Refusal {
    /// The account is deactivated.
    Deactivated {
        /// The account.
        mxid: Mxid,
    },
    /// The account is locked.
    Locked {
        /// The account.
        mxid: Mxid,
    },
    /// There is no account, and the provider may make none (`enable_registration: false`).
    RegistrationDisabled,
    /// A template fails with the claims of the login.
    Template {
        /// Which one.
        field: MappedField,
        /// How.
        why: String,
    },
    /// The localpart is none that Synapse registers.
    Localpart {
        /// What is wrong with it.
        why: String,
    },
    /// Several accounts differ from the localpart in case only (`allow_existing_users`).
    Ambiguous,
    /// The name is taken with every number up to 999.
    NamesTaken,
    /// The account is made, and then the e-mail address cannot be put on it, so that it stays without the login: the next
    /// login makes one more.
    Email {
        /// The account that is left behind.
        mxid: Mxid,
        /// What is wrong with the address.
        why: String,
    },
}

impl fmt::Display for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotLetIn => f.write_str("Defguard lets nobody in who is disabled"),
            Self::Opens { mxid } => write!(f, "it opens {mxid}"),
            Self::Links { mxid } => {
                write!(
                    f,
                    "it is tied to {mxid}, which has the localpart, and opens it (allow_existing_users)"
                )
            }
            Self::Creates { mxid, taken: None } => write!(f, "Synapse makes {mxid} for them"),
            Self::Creates { mxid, taken: Some(taken) } => {
                write!(f, "Synapse makes a second account for them, {mxid}, since {taken} exists")
            }
            Self::Refused { why } => write!(f, "it is refused: {why}"),
            Self::Unclear { why } => write!(f, "it cannot be said: {why}"),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Deactivated { mxid } => write!(f, "{mxid} is deactivated"),
            Self::Locked { mxid } => write!(f, "{mxid} is locked"),
            Self::RegistrationDisabled => f.write_str(
                "they have no account, and the provider may make none (enable_registration: false)",
            ),
            Self::Template { field, why } => {
                write!(f, "{} fails with the claims of a login: {why}", field.template_key())
            }
            Self::Localpart { why } => f.write_str(why),
            Self::Ambiguous => f.write_str("several accounts differ from their localpart in case only"),
            Self::NamesTaken => f.write_str("their localpart is taken with every number up to 999"),
            Self::Email { mxid, why } => {
                write!(f, "{why}; {mxid} is made and stays behind, and the next login makes one more")
            }
        }
    }
}

/// What Synapse would do at the next login of `person`. `mapped` is what the templates give for the claims of a login
/// alone, `holder` the account to which Synapse's look-up of the external id leads; a stale answer counts, since a login
/// rests on the same one.
pub fn next_login(
    person: &Person,
    mapped: &Mapped,
    holder: &Lookup<Mxid>,
    names: &Names<'_>,
    rules: LoginRules,
) -> Login {
    if !person.is_active {
        return Login::NotLetIn;
    }
    let outcome = (|| {
        known_subject(mapped)?;
        match holder {
            Lookup::Unknown(failure) => return Err(Login::Unclear { why: failure.to_string() }),
            Lookup::Found(mxid) => {
                if rules.update_profile_information {
                    renders(mapped)?;
                }
                return opens(names, mxid, |mxid| Login::Opens { mxid });
            }
            Lookup::Absent => {}
        }
        if rules.allow_existing_users
            && let Some(mxid) = existing(mapped, names)?
        {
            return opens(names, &mxid, |mxid| Login::Links { mxid });
        }
        if !rules.enable_registration {
            return Err(Login::Refused { why: Refusal::RegistrationDisabled });
        }
        registers(mapped, names)
    })();
    outcome.unwrap_or_else(|ended| ended)
}

/// The login goes on if it can be said who logs in.
fn known_subject(mapped: &Mapped) -> Result<(), Login> {
    match &mapped.subject {
        Ok(_) => Ok(()),
        Err(MappingError::Template(why)) => {
            Err(Login::Refused { why: Refusal::Template { field: MappedField::Subject, why: why.clone() } })
        }
        Err(error) => Err(Login::Unclear { why: error.to_string() }),
    }
}

fn opens(names: &Names<'_>, mxid: &Mxid, then: impl FnOnce(Mxid) -> Login) -> Result<Login, Login> {
    let mxid = mxid.clone();
    match names.accounts.get(&mxid) {
        Some(account) if account.deactivated => Err(Login::Refused { why: Refusal::Deactivated { mxid } }),
        Some(account) if account.locked => Err(Login::Refused { why: Refusal::Locked { mxid } }),
        _ => Ok(then(mxid)),
    }
}

/// The attribute mapping as a whole: the template that fails first ends the login.
fn renders(mapped: &Mapped) -> Result<(), Login> {
    let failed = |field, error: Option<&MappingError>| match error {
        Some(MappingError::Template(why)) => {
            Err(Login::Refused { why: Refusal::Template { field, why: why.clone() } })
        }
        _ => Ok(()),
    };
    failed(MappedField::Localpart, mapped.localpart.as_ref().err())?;
    failed(MappedField::DisplayName, mapped.display_name.as_ref().err())?;
    failed(MappedField::Email, mapped.email.as_ref().err())
}

/// `grandfather_existing_users`
fn existing(mapped: &Mapped, names: &Names<'_>) -> Result<Option<Mxid>, Login> {
    renders(mapped)?;
    let Ok(localpart) = &mapped.localpart else { return Ok(None) };
    let wanted = Mxid::new(localpart, names.server);
    match names.like(&wanted) {
        [] => Ok(None),
        [one] => Ok(Some((*one).clone())),
        several if several.contains(&&wanted) => Ok(Some(wanted)),
        _ => Err(Login::Refused { why: Refusal::Ambiguous }),
    }
}

/// `_call_attribute_mapper` and `_register_mapped_user`
fn registers(mapped: &Mapped, names: &Names<'_>) -> Result<Login, Login> {
    renders(mapped)?;
    let localpart = match &mapped.localpart {
        Ok(localpart) => localpart,
        Err(error) => return Err(Login::Refused { why: Refusal::Localpart { why: error.to_string() } }),
    };
    let first = Mxid::new(localpart, names.server);
    let taken = names.like(&first).first().map(|mxid| (*mxid).clone());
    let with_number = |n: u32| match n {
        0 => Ok(localpart.clone()),
        n => Localpart::new(&format!("{localpart}{n}"), names.server),
    };
    for n in 0..MOST_SUFFIXES {
        let mxid = match with_number(n) {
            Ok(localpart) => Mxid::new(&localpart, names.server),
            Err(problem) => {
                return Err(Login::Refused { why: Refusal::Localpart { why: problem.to_string() } });
            }
        };
        if !names.like(&mxid).is_empty() {
            continue;
        }
        return Ok(match &mapped.email {
            Err(error) => Login::Refused { why: Refusal::Email { mxid, why: error.to_string() } },
            Ok(_) => Login::Creates { mxid, taken },
        });
    }
    Err(Login::Refused { why: Refusal::NamesTaken })
}

/// What is known of a person and their account on our side.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    /// Whether the sync concerns them.
    pub in_scope: bool,
    /// The account that is theirs: linked, or proved by the ownership marker.
    pub account: Option<Mxid>,
    /// Whose account the login opens, if it is one of ours.
    pub owner: Option<DefguardId>,
    /// Whether it is the account that this service itself uses in Defguard, with which nobody logs in to Synapse.
    pub is_service: bool,
}

/// Whether a login would do what we want.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum Judgement {
    /// It is what we want, or nothing that concerns us.
    Wanted,
    /// It is not.
    Unwanted {
        /// Why not.
        why: String,
        /// What to do about it.
        mend: String,
    },
    /// Nobody can say.
    Unclear,
}

impl Judgement {
    /// Whether somebody should do something about it.
    pub fn is_unwanted(&self) -> bool {
        matches!(self, Self::Unwanted { .. })
    }
}

/// Judges what a login would do.
pub fn judge(person: &Person, login: &Login, known: &Known) -> Judgement {
    let name = &person.username;
    let unwanted = |why: String, mend: String| Judgement::Unwanted { why, mend };
    if known.is_service {
        return Judgement::Wanted;
    }
    if !known.in_scope {
        return match login {
            Login::Creates { .. } | Login::Refused { why: Refusal::Email { .. } } => unwanted(
                "the sync does not concern them, and yet they get an account".to_owned(),
                "`setup oidc --provisioned-only --replace`, so that only provisioned people can log in; or widen [scope]"
                    .to_owned(),
            ),
            Login::Unclear { .. } => Judgement::Unclear,
            _ => Judgement::Wanted,
        };
    }
    match (login, &known.account) {
        (Login::NotLetIn, _) => Judgement::Wanted,
        (Login::Unclear { .. }, _) => Judgement::Unclear,
        (Login::Opens { mxid } | Login::Links { mxid }, Some(own)) if mxid == own => Judgement::Wanted,
        (Login::Opens { mxid } | Login::Links { mxid }, own) => match (known.owner, own) {
            (Some(owner), _) => unwanted(
                format!("{mxid} is the account of #{owner}"),
                format!("`sync {name}`; if it stays so, see `explain {name}` and `explain '#{owner}'`"),
            ),
            (None, Some(own)) => unwanted(
                format!("{own} is theirs, and {mxid} is not"),
                format!("`sync {name}`; if it says that something stands in the way, `explain {name}`"),
            ),
            (None, None) => unwanted(
                format!("{mxid} is not known to be theirs"),
                format!("`adopt`, or if it is theirs `link {name} {mxid}`"),
            ),
        },
        (Login::Creates { .. }, Some(own)) => unwanted(
            format!("{own} is theirs, and does not carry this login yet"),
            format!("`sync {name}` before they log in"),
        ),
        (Login::Creates { taken: Some(taken), .. }, None) => unwanted(
            format!("{taken} has their name and is not tied to them"),
            format!("if it is theirs, `link {name} {taken}`; else see `explain {name}`"),
        ),
        (Login::Creates { .. }, None) => unwanted(
            "an account that a login makes is not known to the sync as theirs".to_owned(),
            format!("`sync {name}` before they log in"),
        ),
        (Login::Refused { why }, _) => {
            unwanted("they are active in Defguard".to_owned(), mend_refusal(name, why))
        }
    }
}

fn mend_refusal(name: &Username, why: &Refusal) -> String {
    match why {
        Refusal::Deactivated { mxid } => {
            format!("reactivate {mxid} in Synapse if they are to have it back; see `explain {name}`")
        }
        Refusal::Locked { mxid } => format!("unlock {mxid} in Synapse if they are to use it again"),
        Refusal::RegistrationDisabled => format!("`sync {name}` makes their account"),
        Refusal::Template { field, .. } => {
            format!("correct them in Defguard, or change {} in homeserver.yaml", field.template_key())
        }
        Refusal::Localpart { .. } | Refusal::NamesTaken => {
            "correct their name or address in Defguard, or change localpart_template in homeserver.yaml"
                .to_owned()
        }
        Refusal::Ambiguous => format!("`sync {name}`, so that the login no longer goes by the name"),
        Refusal::Email { .. } => {
            format!("correct their e-mail address in Defguard, and `sync {name}` before they log in")
        }
    }
}

/// The next login of one person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forecast {
    /// Whose.
    pub id: DefguardId,
    /// Their username.
    pub username: Username,
    /// What Synapse would do.
    pub login: Login,
    /// Whether that is what we want.
    pub judgement: Judgement,
}

/// The next login of everybody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forecasts {
    /// The rules by which they were worked out.
    pub rules: LoginRules,
    /// Whether the list of people was complete.
    pub complete: bool,
    /// Everybody whom the list of people shows, by id.
    pub people: Vec<Forecast>,
    /// The usernames of the people whose accounts are named.
    pub usernames: BTreeMap<DefguardId, Username>,
}

impl Forecasts {
    /// Of how many people the login is as we want it, is not, and cannot be told.
    pub fn counts(&self) -> (usize, usize, usize) {
        let count = |is: fn(&Judgement) -> bool| self.people.iter().filter(|one| is(&one.judgement)).count();
        (
            count(|judgement| *judgement == Judgement::Wanted),
            count(Judgement::is_unwanted),
            count(|judgement| *judgement == Judgement::Unclear),
        )
    }

    /// The people of whom two or more would make the same account: only the first of them gets it.
    pub fn meeting(&self) -> BTreeMap<&Mxid, BTreeSet<&Username>> {
        let mut meeting: BTreeMap<&Mxid, BTreeSet<&Username>> = BTreeMap::new();
        for one in &self.people {
            if let Login::Creates { mxid, .. } = &one.login {
                meeting.entry(mxid).or_default().insert(&one.username);
            }
        }
        meeting.retain(|_, people| people.len() > 1);
        meeting
    }
}

/// What could not be found out, as the outcome of a login.
impl From<Failure> for Login {
    fn from(failure: Failure) -> Self {
        Self::Unclear { why: failure.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Email, FailureClass, Peer, Subject};

    fn server() -> ServerName {
        ServerName::try_from("example.org").unwrap()
    }

    fn mxid(localpart: &str) -> Mxid {
        Mxid::parse(&format!("@{localpart}:example.org"), &server()).unwrap()
    }

    fn person(username: &str) -> Person {
        Person {
            id: DefguardId(7),
            username: Username::new(username),
            first_name: String::new(),
            last_name: String::new(),
            name: String::new(),
            email: String::new(),
            phone: None,
            groups: BTreeSet::new(),
            is_active: true,
            enrolled: true,
            is_admin: false,
        }
    }

    fn mapped(localpart: &str) -> Mapped {
        Mapped {
            subject: Ok(Subject::new("alice")),
            localpart: Localpart::new(localpart, &server()).map_err(MappingError::from),
            display_name: Ok(None),
            email: Ok(Some(Email::canonical("a@example.org").unwrap())),
        }
    }

    fn account(localpart: &str) -> AccountSummary {
        AccountSummary {
            mxid: mxid(localpart),
            display_name: None,
            deactivated: false,
            locked: false,
            admin: false,
            guest: false,
            user_type: None,
        }
    }

    fn accounts(all: &[&str]) -> BTreeMap<Mxid, AccountSummary> {
        all.iter().map(|localpart| (mxid(localpart), account(localpart))).collect()
    }

    fn forecast(
        mapped: &Mapped,
        holder: Lookup<Mxid>,
        accounts: &BTreeMap<Mxid, AccountSummary>,
        rules: LoginRules,
    ) -> Login {
        next_login(&person("alice"), mapped, &holder, &Names::new(&server(), accounts), rules)
    }

    /// Without an external id, with these accounts there.
    fn unlinked(localpart: &str, there: &[&str], rules: LoginRules) -> Login {
        forecast(&mapped(localpart), Lookup::Absent, &accounts(there), rules)
    }

    fn existing() -> LoginRules {
        LoginRules { allow_existing_users: true, ..LoginRules::default() }
    }

    fn closed() -> LoginRules {
        LoginRules { enable_registration: false, ..LoginRules::default() }
    }

    fn template_fails() -> MappingError {
        MappingError::Template("it fails".to_owned())
    }

    #[test]
    fn an_external_id_opens_its_account_whatever_the_localpart_is() {
        let there = accounts(&["alice", "other"]);
        let opened = forecast(&mapped("alice"), Lookup::Found(mxid("other")), &there, existing());
        assert_eq!(opened, Login::Opens { mxid: mxid("other") });
    }

    #[test]
    fn a_deactivated_and_a_locked_account_are_refused_linked_or_not() {
        let mut there = accounts(&["alice"]);
        there.get_mut(&mxid("alice")).unwrap().deactivated = true;
        let deactivated = Login::Refused { why: Refusal::Deactivated { mxid: mxid("alice") } };
        assert_eq!(
            forecast(&mapped("x"), Lookup::Found(mxid("alice")), &there, LoginRules::default()),
            deactivated
        );
        assert_eq!(forecast(&mapped("alice"), Lookup::Absent, &there, existing()), deactivated);
        let account = there.get_mut(&mxid("alice")).unwrap();
        (account.deactivated, account.locked) = (false, true);
        let locked = Login::Refused { why: Refusal::Locked { mxid: mxid("alice") } };
        assert_eq!(
            forecast(&mapped("x"), Lookup::Found(mxid("alice")), &there, LoginRules::default()),
            locked
        );
    }

    #[test]
    fn a_free_name_makes_an_account_and_a_taken_one_gets_the_first_free_number() {
        let rules = LoginRules::default();
        let made = |there: &[&str]| unlinked("alice", there, rules);
        assert_eq!(made(&[]), Login::Creates { mxid: mxid("alice"), taken: None });
        let second = Login::Creates { mxid: mxid("alice1"), taken: Some(mxid("alice")) };
        assert_eq!(made(&["alice"]), second);
        let third = Login::Creates { mxid: mxid("alice2"), taken: Some(mxid("alice")) };
        assert_eq!(made(&["alice", "alice1"]), third);
        // A number that is taken does not make the name taken.
        assert_eq!(made(&["alice1"]), Login::Creates { mxid: mxid("alice"), taken: None });
    }

    #[test]
    fn an_old_account_in_other_case_takes_the_name() {
        let second = Login::Creates { mxid: mxid("alice1"), taken: Some(mxid("Alice")) };
        assert_eq!(unlinked("alice", &["Alice"], LoginRules::default()), second);
    }

    #[test]
    fn allow_existing_users_links_the_account_with_the_localpart() {
        assert_eq!(unlinked("alice", &["alice"], existing()), Login::Links { mxid: mxid("alice") });
        assert_eq!(unlinked("alice", &["Alice"], existing()), Login::Links { mxid: mxid("Alice") });
        assert_eq!(
            unlinked("alice", &["ALICE", "Alice", "alice"], existing()),
            Login::Links { mxid: mxid("alice") }
        );
        assert_eq!(
            unlinked("alice", &["ALICE", "Alice"], existing()),
            Login::Refused { why: Refusal::Ambiguous }
        );
        assert_eq!(unlinked("alice", &[], existing()), Login::Creates { mxid: mxid("alice"), taken: None });
    }

    #[test]
    fn without_registration_only_who_is_linked_or_linked_by_name_gets_in() {
        let refused = Login::Refused { why: Refusal::RegistrationDisabled };
        assert_eq!(unlinked("alice", &[], closed()), refused);
        assert_eq!(unlinked("alice", &["alice"], closed()), refused);
        let both = LoginRules { allow_existing_users: true, ..closed() };
        assert_eq!(unlinked("alice", &["alice"], both), Login::Links { mxid: mxid("alice") });
    }

    #[test]
    fn a_name_that_is_taken_with_every_number_is_refused() {
        let all: Vec<String> =
            std::iter::once("a".to_owned()).chain((1..1000).map(|n| format!("a{n}"))).collect();
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        assert_eq!(unlinked("a", &all, LoginRules::default()), Login::Refused { why: Refusal::NamesTaken });
        let last = Login::Creates { mxid: mxid("a999"), taken: Some(mxid("a")) };
        assert_eq!(unlinked("a", &all[..999], LoginRules::default()), last);
    }

    #[test]
    fn an_address_that_is_none_leaves_a_half_made_account_behind() {
        let bad = Mapped {
            email: Err(MappingError::Email(crate::domain::EmailProblem::NotOneAt)),
            ..mapped("alice")
        };
        let left = forecast(&bad, Lookup::Absent, &accounts(&["alice"]), LoginRules::default());
        assert!(
            matches!(&left, Login::Refused { why: Refusal::Email { mxid: made, .. } } if *made == mxid("alice1")),
            "{left:?}"
        );
        // On an account that is there the address does not matter.
        let there = accounts(&["alice"]);
        let opened = forecast(&bad, Lookup::Found(mxid("alice")), &there, LoginRules::default());
        assert_eq!(opened, Login::Opens { mxid: mxid("alice") });
    }

    #[test]
    fn a_template_that_fails_refuses_whoever_has_no_account_and_with_profile_updates_everybody() {
        let broken = Mapped { display_name: Err(template_fails()), ..mapped("alice") };
        let refused = Login::Refused {
            why: Refusal::Template { field: MappedField::DisplayName, why: "it fails".to_owned() },
        };
        let there = accounts(&["alice"]);
        let found = || Lookup::Found(mxid("alice"));
        let default = LoginRules::default();
        assert_eq!(forecast(&broken, Lookup::Absent, &there, default), refused);
        assert_eq!(forecast(&broken, Lookup::Absent, &there, existing()), refused);
        assert_eq!(forecast(&broken, found(), &there, default), Login::Opens { mxid: mxid("alice") });
        let updates = LoginRules { update_profile_information: true, ..default };
        assert_eq!(forecast(&broken, found(), &there, updates), refused);
    }

    #[test]
    fn a_localpart_that_synapse_does_not_register_is_refused() {
        let refused = unlinked("123", &[], LoginRules::default());
        assert!(matches!(refused, Login::Refused { why: Refusal::Localpart { .. } }), "{refused:?}");
    }

    #[test]
    fn what_could_not_be_looked_up_is_unclear_and_never_a_new_account() {
        let failure = Failure::new(Peer::Synapse, FailureClass::Transient, "looking", "no answer");
        let unclear =
            forecast(&mapped("alice"), Lookup::Unknown(failure), &accounts(&[]), LoginRules::default());
        assert!(matches!(unclear, Login::Unclear { .. }), "{unclear:?}");
        assert_eq!(judge(&person("alice"), &unclear, &linked("alice")), Judgement::Unclear);
    }

    #[test]
    fn whoever_is_disabled_is_not_let_in() {
        let disabled = Person { is_active: false, ..person("alice") };
        let login = next_login(
            &disabled,
            &mapped("alice"),
            &Lookup::Absent,
            &Names::new(&server(), &accounts(&[])),
            LoginRules::default(),
        );
        assert_eq!(login, Login::NotLetIn);
        assert_eq!(judge(&disabled, &login, &linked("alice")), Judgement::Wanted);
    }

    fn linked(localpart: &str) -> Known {
        Known { in_scope: true, account: Some(mxid(localpart)), ..Known::default() }
    }

    #[test]
    fn only_the_own_account_is_wanted_and_everything_else_says_what_to_do() {
        let judged = |login: &Login, known: &Known| judge(&person("alice"), login, known);
        let opens = |localpart| Login::Opens { mxid: mxid(localpart) };
        assert_eq!(judged(&opens("alice"), &linked("alice")), Judgement::Wanted);
        assert_eq!(judged(&Login::Links { mxid: mxid("alice") }, &linked("alice")), Judgement::Wanted);
        let nobody = Known { in_scope: true, ..Known::default() };
        let stranger = Known { owner: Some(DefguardId(3)), ..nobody.clone() };
        let creates = Login::Creates { mxid: mxid("alice"), taken: None };
        let second = Login::Creates { mxid: mxid("alice1"), taken: Some(mxid("alice")) };
        let locked = Login::Refused { why: Refusal::Locked { mxid: mxid("alice") } };
        for (login, known, mend) in [
            (&opens("other"), &linked("alice"), "sync alice"),
            (&opens("alice"), &nobody, "link alice @alice:example.org"),
            (&opens("alice"), &stranger, "explain '#3'"),
            (&creates, &nobody, "sync alice"),
            (&creates, &linked("old"), "sync alice"),
            (&second, &nobody, "link alice @alice:example.org"),
            (&locked, &linked("alice"), "unlock"),
        ] {
            match judged(login, known) {
                Judgement::Unwanted { mend: said, .. } => assert!(said.contains(mend), "{login}: {said}"),
                other => panic!("{login}: {other:?}"),
            }
        }
    }

    #[test]
    fn whom_the_sync_does_not_concern_should_get_no_account_from_a_login_either() {
        let outside = Known::default();
        let creates = Login::Creates { mxid: mxid("alice"), taken: None };
        assert!(judge(&person("alice"), &creates, &outside).is_unwanted());
        let opens = Login::Opens { mxid: mxid("alice") };
        assert_eq!(judge(&person("alice"), &opens, &outside), Judgement::Wanted);
        let refused = Login::Refused { why: Refusal::RegistrationDisabled };
        assert_eq!(judge(&person("alice"), &refused, &outside), Judgement::Wanted);
    }
}
