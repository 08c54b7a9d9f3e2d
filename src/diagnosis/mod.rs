//! What can be wrong with the way in which Defguard, Synapse and this service are joined: judgements about what was
//! seen, each a pure function from what it needs to findings. The gathering is the command line's (`check`).

mod finding;
mod homeserver;
mod openid;
mod people;
mod service;

pub use finding::{Finding, Kind, Level};
pub use homeserver::{Policies, judge_homeserver_config, judge_provisioning};
pub use openid::judge_discovery;
pub use openid::{
    App, Discovery, LoginFlows, SsoRedirect, Wanted, judge_app, judge_keys, judge_offer, judge_running,
};
pub use people::{judge_external_ids, judge_logins, judge_templates};
pub use service::{Clocks, Licence, judge_clocks, judge_licence, judge_own_account};

/// How many people a finding names before it only counts them.
const NAMED: usize = 20;

/// The first of many names, and how many more there are.
fn named<T: ToString>(names: &[T]) -> String {
    let mut text = names.iter().take(NAMED).map(ToString::to_string).collect::<Vec<_>>().join(", ");
    if names.len() > NAMED {
        text.push_str(&format!(" and {} more", names.len() - NAMED));
    }
    text
}
