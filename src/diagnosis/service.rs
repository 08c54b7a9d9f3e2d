//! This service itself: the account of its token, the licence it depends on, and the clocks.

use chrono::TimeDelta;

use super::finding::{Finding, Kind};
use crate::domain::{Account, Instance};

/// Synapse takes a token whose time of issue lies no further ahead (`synapse/handlers/oidc.py`, `_parse_id_token`).
const LEEWAY: TimeDelta = TimeDelta::seconds(120);
/// A clock that is further off is worth a look.
const NOTABLE: TimeDelta = TimeDelta::seconds(30);
/// A one-time code holds for 30 seconds, and Defguard has no tolerance (`docs/facts/defguard.md` section 1).
const CODE: TimeDelta = TimeDelta::seconds(10);

/// Whether the account of our token is somebody's, or can be logged in to.
pub fn judge_own_account(own: &Account, auth_provider: &str, instance: &Instance) -> Vec<Finding> {
    let mxid = &own.summary.mxid;
    let mut findings = Vec::new();
    let mend =
        "make an account for this service in Synapse that is nobody's (`setup synapse`), and take its token";
    if let Some(id) = own.owner(instance) {
        findings.push(
            Finding::warning(
                Kind::OwnAccountWanted,
                "Synapse",
                format!("{mxid}, whose token this service uses, is marked as the account of #{id}"),
                mend,
            )
            .because("their account is never touched, and a change of its password or a lock would stop this service"),
        );
    }
    let logins: Vec<&str> = own.logins(auth_provider).map(|id| id.external_id.as_str()).collect();
    if !logins.is_empty() {
        findings.push(
            Finding::warning(
                Kind::OwnAccountLogin,
                "Synapse",
                format!("the login of {} opens {mxid}, whose token this service uses", logins.join(", ")),
                mend,
            )
            .because("whoever has that username in Defguard, now or later, is a server admin of Synapse"),
        );
    }
    findings
}

/// What can be seen of Defguard's licence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Licence {
    /// There is none, or none that is active.
    None,
    /// There is one.
    Active,
    /// There is one that has run out.
    Expired,
}

/// Whether the licence is enough for how we log in: `by_token`, or with a session of our own.
pub fn judge_licence(licence: Licence, by_token: bool) -> Finding {
    let about = "Defguard";
    let mend = "renew the licence, or use `username` and `password_file` in [defguard], which need none";
    match (licence, by_token) {
        (Licence::Active, true) => Finding::ok(Kind::Licence, about, "has a licence, which API tokens need"),
        (Licence::Active, false) => {
            Finding::ok(Kind::Licence, about, "has a licence, which is not needed here")
        }
        (Licence::None, false) => {
            Finding::ok(Kind::Licence, about, "has no licence, and none is needed here")
        }
        (Licence::Expired, false) => {
            Finding::ok(Kind::Licence, about, "has a licence that has run out, and none is needed here")
        }
        (Licence::None, true) => {
            Finding::error(Kind::Licence, about, "has no active licence, and an API token is used", mend)
                .because("without one Defguard takes no API token")
        }
        (Licence::Expired, true) => {
            Finding::warning(Kind::Licence, about, "the licence has run out, and an API token is used", mend)
                .because("Defguard goes on taking API tokens for two weeks at most")
        }
    }
}

/// How far the clocks of the servers are ahead of ours; `None` if a server did not tell the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clocks {
    /// Defguard's.
    pub defguard: Option<TimeDelta>,
    /// Synapse's.
    pub synapse: Option<TimeDelta>,
    /// Whether we log in with one-time codes.
    pub one_time_codes: bool,
}

/// Whether the clocks agree well enough.
pub fn judge_clocks(clocks: Clocks) -> Vec<Finding> {
    let mend = "set the clocks by NTP on all machines: `timedatectl set-ntp true`";
    let mut findings = Vec::new();
    if let (Some(defguard), Some(synapse)) = (clocks.defguard, clocks.synapse) {
        let ahead = defguard - synapse;
        if ahead > LEEWAY {
            findings.push(
                Finding::error(
                    Kind::Clock,
                    "clocks",
                    format!("Defguard's clock is {} ahead of Synapse's", seconds(ahead)),
                    mend,
                )
                .because("Synapse refuses logins whose token was made more than 120 s in its future"),
            );
        } else if ahead.abs() > NOTABLE {
            findings.push(
                Finding::warning(
                    Kind::Clock,
                    "clocks",
                    format!("Defguard's and Synapse's clocks are {} apart", seconds(ahead.abs())),
                    mend,
                )
                .because("from 120 s on Synapse refuses logins"),
            );
        }
    }
    if let Some(defguard) = clocks.defguard
        && clocks.one_time_codes
        && defguard.abs() > CODE
    {
        findings.push(
            Finding::warning(
                Kind::Clock,
                "clocks",
                format!(
                    "Defguard's clock and ours are {} apart, and one-time codes are used",
                    seconds(defguard.abs())
                ),
                mend,
            )
            .because("a code holds for 30 s, and five wrong ones lock the account"),
        );
    }
    for (name, offset) in [("Defguard", clocks.defguard), ("Synapse", clocks.synapse)] {
        if let Some(offset) = offset.filter(|offset| offset.abs() > NOTABLE) {
            findings.push(
                Finding::warning(
                    Kind::Clock,
                    "clocks",
                    format!("{name}'s clock and ours are {} apart", seconds(offset.abs())),
                    mend,
                )
                .because("the times in the journal do not fit those in its log"),
            );
        }
    }
    if findings.is_empty() && (clocks.defguard.is_some() || clocks.synapse.is_some()) {
        findings.push(Finding::ok(Kind::Clock, "clocks", "agree with ours"));
    }
    findings
}

fn seconds(delta: TimeDelta) -> String {
    format!("{} s", delta.num_seconds())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::Level;

    fn clocks(defguard: i64, synapse: i64, one_time_codes: bool) -> Vec<(Level, String)> {
        let at = |seconds| Some(TimeDelta::seconds(seconds));
        let found = judge_clocks(Clocks { defguard: at(defguard), synapse: at(synapse), one_time_codes });
        found.into_iter().map(|finding| (finding.level, finding.found)).collect()
    }

    #[test]
    fn clocks_are_judged_by_what_they_are_for() {
        let fine = [(Level::Ok, "agree with ours".to_owned())];
        assert_eq!(clocks(2, -3, true), fine);
        assert_eq!(clocks(12, 12, false), fine);
        // One-time codes are the first to suffer.
        let codes = clocks(12, 12, true);
        assert!(
            matches!(codes.as_slice(), [(Level::Warning, found)] if found.contains("one-time")),
            "{codes:?}"
        );
        let error = |found: &[(Level, String)]| found.iter().any(|(level, _)| *level == Level::Error);
        assert!(error(&clocks(130, 0, false)));
        assert!(error(&clocks(0, -130, false)));
        // Defguard's being behind refuses nobody.
        assert!(!error(&clocks(-130, 0, false)));
        // Both are as far off as the other: nothing is refused, and our own clock is to blame.
        let ours = clocks(300, 300, false);
        assert_eq!(ours.len(), 2, "{ours:?}");
        assert!(!error(&ours));
        let none = Clocks { defguard: None, synapse: None, one_time_codes: true };
        assert_eq!(judge_clocks(none), []);
    }

    #[test]
    fn only_an_api_token_needs_a_licence() {
        let level = |licence, by_token| judge_licence(licence, by_token).level;
        for licence in [Licence::None, Licence::Active, Licence::Expired] {
            assert_eq!(level(licence, false), Level::Ok);
        }
        assert_eq!(level(Licence::Active, true), Level::Ok);
        assert_eq!(level(Licence::Expired, true), Level::Warning);
        assert_eq!(level(Licence::None, true), Level::Error);
    }
}
