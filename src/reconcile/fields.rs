//! When a profile field is written.

use super::plan::Note;
use crate::domain::{Account, Applied, Email, FieldPolicy, Mapped, MappedField};

/// The longest display name, in characters, to which Synapse changes an existing account; at creation it has no limit.
const LONGEST_NAME: usize = 256;

/// What to do with the display name.
#[derive(Debug, PartialEq)]
pub(super) struct NameChange {
    pub(super) write: Option<String>,
    /// What to remember of it; the outer `None` if there is still no baseline.
    pub(super) baseline: Option<Option<String>>,
    pub(super) note: Option<Note>,
}

/// Decides on the display name of an existing account that shows `shown` now. `before` is what is remembered, `None` for
/// an account that becomes the person's only now. Without a baseline "on change" records and does not write.
pub(super) fn name(
    policy: FieldPolicy,
    mapped: &Mapped,
    shown: Option<&str>,
    before: Option<&Applied>,
) -> NameChange {
    let old = before.and_then(Applied::display_name).map(|name| name.cloned());
    let wanted = match &mapped.display_name {
        Ok(Some(wanted)) => wanted,
        Ok(None) => return NameChange { write: None, baseline: Some(None), note: None },
        Err(error) => {
            let note = Note::NoValue { field: MappedField::DisplayName, why: error.to_string() };
            return NameChange { write: None, baseline: old, note: Some(note) };
        }
    };
    let seen = Some(Some(wanted.clone()));
    let due = match policy {
        FieldPolicy::Enforce => true,
        FieldPolicy::OnChange => old.is_some() && old != seen,
        FieldPolicy::Initial | FieldPolicy::Ignore => false,
    };
    if !due || shown == Some(wanted.as_str()) {
        return NameChange { write: None, baseline: seen, note: None };
    }
    let length = wanted.chars().count();
    if length > LONGEST_NAME {
        return NameChange { write: None, baseline: old, note: Some(Note::DisplayNameTooLong { length }) };
    }
    NameChange { write: Some(wanted.clone()), baseline: seen, note: None }
}

/// What to do with the e-mail address of an existing account.
#[derive(Debug, Default, PartialEq)]
pub(super) struct EmailChange {
    pub(super) gain: Option<Email>,
    pub(super) drop: Option<Email>,
    /// What to remember of it; the outer `None` if there is still no baseline.
    pub(super) baseline: Option<Option<Email>>,
    pub(super) note: Option<Note>,
}

/// Whether the e-mail address has changed since the baseline in a way that the policy acts on; said without a look at
/// the account.
pub(super) fn email_is_due(policy: FieldPolicy, mapped: &Mapped, before: Option<&Applied>) -> bool {
    let Ok(wanted) = &mapped.email else { return false };
    match (policy, before.and_then(Applied::email)) {
        (FieldPolicy::Enforce | FieldPolicy::OnChange, Some(old)) => old != wanted.as_ref(),
        (FieldPolicy::Enforce, None) => true,
        _ => false,
    }
}

/// Decides on the e-mail address of an existing account, or only on what to remember of it if the account was not looked
/// at. Only the address of the baseline is ever taken off; what others put there stays. A policy that does not act
/// leaves the baseline as it is, so that it goes on naming an address of ours.
pub(super) fn email(
    policy: FieldPolicy,
    mapped: &Mapped,
    before: Option<&Applied>,
    account: Option<&Account>,
) -> EmailChange {
    let old = before.and_then(Applied::email).map(|email| email.cloned());
    let wanted = match &mapped.email {
        Ok(wanted) => wanted.clone(),
        Err(error) => {
            let note = Note::NoValue { field: MappedField::Email, why: error.to_string() };
            return EmailChange { baseline: old, note: Some(note), ..EmailChange::default() };
        }
    };
    if matches!(policy, FieldPolicy::Initial | FieldPolicy::Ignore) {
        return EmailChange { baseline: old, ..EmailChange::default() };
    }
    let mut change = EmailChange { baseline: Some(wanted.clone()), ..EmailChange::default() };
    let Some(account) = account else { return change };
    let missing = wanted.as_ref().is_some_and(|email| !account.has_email(email));
    if email_is_due(policy, mapped, before) || (policy == FieldPolicy::Enforce && missing) {
        change.drop =
            old.flatten().filter(|email| wanted.as_ref() != Some(email) && account.has_email(email));
        change.gain = wanted.filter(|_| missing);
    }
    change
}
