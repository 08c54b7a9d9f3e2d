//! Rules about names, literals and the claims that a template asks for.

use std::sync::LazyLock;

use minijinja::{
    Value,
    machinery::{Span, ast::Expr},
};
use regex::Regex;

use super::Translator;
use crate::{
    domain::MappedField,
    mapping::{
        Purpose,
        claims::{FIELDS, LOGIN_CLAIMS},
        refused::ProblemKind,
    },
};

/// The numbers of Jinja2's lexer.
static NUMBER: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(
        r"(?xi)^( 0b(_?[01])+ | 0o(_?[0-7])+ | 0x(_?[0-9a-f])+ | [1-9](_?[0-9])* | 0(_?0)*
        | ([0-9]+_)*[0-9]+ ( (\.([0-9]+_)*[0-9]+)? e[+\-]?([0-9]+_)*[0-9]+ | \.([0-9]+_)*[0-9]+ ) )$",
    )
    .ok()
});

impl<'s> Translator<'s> {
    /// Python's inner attributes lead out of the claims.
    pub(super) fn check_name(&mut self, name: &str, at: Span) {
        if name.starts_with("__") {
            self.refuse(Some(at), &format!("Python's own attribute `{name}` is not supported"), None);
        }
    }

    /// Escapes in a literal that minijinja reads in another way than Python.
    pub(super) fn check_literal(&mut self, at: Span, value: &Value) {
        if value.as_str().is_none() {
            if f64::try_from(value.clone()).is_ok_and(f64::is_infinite) {
                self.refuse(Some(at), "infinite numbers are not done", None);
            }
            if value.is_number() && !NUMBER.as_ref().is_some_and(|number| number.is_match(self.raw(at))) {
                self.problem(ProblemKind::Broken, Some(at), "this is no number to Jinja2".to_owned(), None);
            }
            return;
        }
        let raw = self.raw(at);
        let mut chars = raw.chars();
        while let Some(c) = chars.next() {
            if c != '\\' {
                continue;
            }
            match chars.next() {
                Some('\\' | '\'' | '"' | 'n' | 'r' | 't' | 'u' | 'x') | None => {}
                Some(other) => self.refuse(
                    Some(at),
                    &format!("the escape `\\{}` is not supported", other.escape_default()),
                    Some("write the character itself, or `\\u` and four hexadecimal digits"),
                ),
            }
        }
    }

    pub(super) fn raw(&self, at: Span) -> &'s str {
        self.source.get(at.start_offset as usize..at.end_offset as usize).unwrap_or_default()
    }

    pub(super) fn user_key(&mut self, key: &Expr<'_>) {
        match key {
            Expr::Const(name) => {
                if let Some(text) = name.value.as_str() {
                    self.user_field(text, name.span());
                }
            }
            other if self.purpose == Purpose::People => self.refuse(
                Some(other.span()),
                "it cannot be seen which claim this asks for",
                Some("name the claim itself"),
            ),
            _ => {}
        }
    }

    /// Something asks `user` for one claim or field.
    pub(super) fn user_field(&mut self, name: &str, at: Span) {
        if self.purpose != Purpose::People {
            return;
        }
        if LOGIN_CLAIMS.contains(&name) {
            self.refuse(
                Some(at),
                &format!("the claim `{name}` belongs to a login and is not known before it"),
                Some("use a claim about the person"),
            );
            return;
        }
        let identity = matches!(self.field, MappedField::Subject | MappedField::Localpart);
        if let (true, Some((_, claim))) = (identity, FIELDS.iter().find(|(field, _)| *field == name)) {
            let instead = claim.map(|claim| format!("write `user.{claim}`"));
            self.problem(
                ProblemKind::Refused,
                Some(at),
                format!(
                    "`user.{name}` is a field of Defguard's API and no claim: at a login it is empty, so the \
                     account made here would not be found"
                ),
                instead.or_else(|| Some("use a claim, such as `user.sub`".to_owned())),
            );
        }
    }

    /// Something uses all claims at once.
    pub(super) fn whole_user(&mut self, at: Span) {
        if self.purpose == Purpose::People {
            self.refuse(
                Some(at),
                "`user` as a whole holds claims that belong to a login and are not known before it",
                Some("name the claims that you need"),
            );
        }
    }
}
