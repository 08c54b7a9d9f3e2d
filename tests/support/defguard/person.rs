//! One row of the table of people, and its shape as `UserInfo`.

use serde_json::{Value, json};

/// A person as the database keeps them; groups and admin rights are in the table of groups.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    pub id: i64,
    pub username: String,
    pub first_name: String,
    pub last_name: String,
    pub email: String,
    pub phone: Option<String>,
    pub is_active: bool,
    pub enrolled: bool,
    pub mfa_method: String,
    pub ldap_pass_requires_change: bool,
    pub email_mfa_enabled: bool,
    pub authorized_apps: Vec<Value>,
    pub devices: Vec<Value>,
    pub password: Option<String>,
    /// Base32; the second factor is asked for if it is there.
    pub totp_secret: Option<String>,
}

impl Row {
    /// The `UserInfo` of 2.x.
    pub fn info(&self, groups: &[String], is_admin: bool) -> Value {
        json!({
            "id": self.id,
            "username": self.username,
            "first_name": self.first_name,
            "last_name": self.last_name,
            "name": format!("{} {}", self.first_name, self.last_name),
            "email": self.email,
            "phone": self.phone,
            "groups": groups,
            "is_active": self.is_active,
            "enrolled": self.enrolled,
            "is_admin": is_admin,
            "mfa_enabled": self.totp_secret.is_some(),
            "totp_enabled": self.totp_secret.is_some(),
            "email_mfa_enabled": self.email_mfa_enabled,
            "mfa_method": self.mfa_method,
            "ldap_pass_requires_change": self.ldap_pass_requires_change,
            "authorized_apps": self.authorized_apps,
            "devices": self.devices,
        })
    }
}

/// A person to be added.
#[derive(Debug, Clone)]
pub struct NewPerson {
    pub username: String,
    pub first_name: String,
    pub last_name: String,
    pub email: String,
    pub phone: Option<String>,
    pub password: Option<String>,
    pub groups: Vec<String>,
    pub is_active: bool,
    pub totp_secret: Option<String>,
}

impl NewPerson {
    /// Somebody with this username, a name and an address made of it, and a password (so they are enrolled).
    pub fn named(username: &str) -> Self {
        Self {
            username: username.to_owned(),
            first_name: username.to_owned(),
            last_name: "Person".to_owned(),
            email: format!("{username}@example.com"),
            phone: None,
            password: Some(format!("{username}-Pass123!")),
            groups: Vec::new(),
            is_active: true,
            totp_secret: None,
        }
    }

    #[must_use]
    pub fn name(mut self, first: &str, last: &str) -> Self {
        (self.first_name, self.last_name) = (first.to_owned(), last.to_owned());
        self
    }

    #[must_use]
    pub fn email(mut self, email: &str) -> Self {
        email.clone_into(&mut self.email);
        self
    }

    #[must_use]
    pub fn groups(mut self, groups: &[&str]) -> Self {
        self.groups = groups.iter().map(|group| (*group).to_owned()).collect();
        self
    }

    #[must_use]
    pub fn password(mut self, password: Option<&str>) -> Self {
        self.password = password.map(str::to_owned);
        self
    }

    #[must_use]
    pub fn totp(mut self, secret: &str) -> Self {
        self.totp_secret = Some(secret.to_owned());
        self
    }
}

/// 1 to 63 ASCII letters, digits, `.`, `-`, `_`, the first one a letter or digit.
pub fn is_username(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b))
}

/// The facts only say that there is a pattern and that it refuses an empty text; this one is a guess.
pub fn is_phone(text: &str) -> bool {
    text.bytes().any(|b| b.is_ascii_digit())
        && text.bytes().all(|b| b.is_ascii_digit() || b"+-/(). ".contains(&b))
}

/// SQL's `text ILIKE pattern`, with which Defguard looks for an e-mail address that is taken.
pub fn ilike(text: &str, pattern: &str) -> bool {
    fn matches(text: &[char], pattern: &[char]) -> bool {
        match pattern {
            [] => text.is_empty(),
            ['%', rest @ ..] => (0..=text.len()).any(|skip| matches(&text[skip..], rest)),
            ['_', rest @ ..] => !text.is_empty() && matches(&text[1..], rest),
            ['\\', literal, rest @ ..] | [literal, rest @ ..] => {
                text.first() == Some(literal) && matches(&text[1..], rest)
            }
        }
    }
    let lower = |text: &str| text.to_lowercase().chars().collect::<Vec<char>>();
    matches(&lower(text), &lower(pattern))
}
