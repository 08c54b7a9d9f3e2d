//! Laying out text for people: wrapped to the terminal, one thing a line where somebody else reads.

use std::{borrow::Cow, collections::BTreeMap, fmt::Write as _};

use comfy_table::{ContentArrangement, LineStyle, Table, TableStyle};

use crate::domain::{DefguardId, Username};

/// How many people a line names before it only counts them.
const NAMED: usize = 20;

/// A line below the header, and no other.
const LIGHT: TableStyle = TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─'));

/// The narrowest terminal for which text is wrapped. Some terminals say that they have no width at all.
const NARROWEST: usize = 40;

/// The width of the terminal; `None` if nothing is to be wrapped: there is none, or one that is no help.
pub(super) fn width() -> Option<usize> {
    Table::new().width().map(usize::from).filter(|width| *width >= NARROWEST)
}

/// Text from elsewhere without what would steer the terminal.
pub(super) fn clean(text: &str) -> Cow<'_, str> {
    if text.chars().any(char::is_control) {
        let escaped =
            text.chars().map(|c| if c.is_control() { c.escape_default().collect() } else { String::from(c) });
        Cow::Owned(escaped.collect())
    } else {
        Cow::Borrowed(text)
    }
}

/// Text that grows line by line.
pub(super) struct Page {
    text: String,
    width: Option<usize>,
}

impl Page {
    /// An empty one, `width` characters wide.
    pub(super) fn new(width: Option<usize>) -> Self {
        Self { text: String::new(), width }
    }

    /// An empty line between two parts.
    pub(super) fn gap(&mut self) {
        if !self.text.is_empty() && !self.text.ends_with("\n\n") {
            self.text.push('\n');
        }
    }

    /// A part begins.
    pub(super) fn heading(&mut self, text: &str) {
        self.gap();
        self.line("", text);
    }

    /// A line that begins with `lead`; what does not fit goes on below, as far to the right as `lead` is wide.
    pub(super) fn line(&mut self, lead: &str, text: &str) {
        let hang = lead.chars().count();
        self.text.push_str(lead);
        let mut column = hang;
        for (n, word) in clean(text).split(' ').enumerate() {
            let length = word.chars().count();
            if n > 0 {
                if self.width.is_some_and(|width| column + 1 + length > width) {
                    let _ = write!(self.text, "\n{:hang$}", "");
                    column = hang;
                } else {
                    self.text.push(' ');
                    column += 1;
                }
            }
            self.text.push_str(word);
            column += length;
        }
        self.text.truncate(self.text.trim_end_matches(' ').len());
        self.text.push('\n');
    }

    /// A line that is to be copied, so it is never wrapped.
    pub(super) fn verbatim(&mut self, text: &str) {
        self.text.push_str(&clean(text));
        self.text.push('\n');
    }

    /// A label and its value, the values one below the other.
    pub(super) fn value(&mut self, label: &str, value: &str) {
        self.line(&format!("  {label:<13} "), value);
    }

    /// Rows below a header, indented; nothing if there are none. A cell can have several lines.
    pub(super) fn table<const N: usize>(&mut self, header: [&str; N], rows: Vec<[String; N]>) {
        if rows.is_empty() {
            return;
        }
        let mut table = Table::new();
        table.load_style(LIGHT).set_header(header);
        match self.width.and_then(|width| u16::try_from(width.saturating_sub(2)).ok()) {
            Some(width) => table.set_width(width).set_content_arrangement(ContentArrangement::Dynamic),
            None => table.set_content_arrangement(ContentArrangement::Disabled),
        };
        for row in rows {
            let cells = row.map(|cell| cell.lines().map(clean).collect::<Vec<_>>().join("\n"));
            table.add_row(cells);
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        for line in table.trim_fmt().lines() {
            let _ = writeln!(self.text, "  {line}");
        }
    }

    /// What somebody has to look at: who, what, and what to do. People with the same trouble are named together.
    pub(super) fn troubles(&mut self, troubles: Vec<Trouble>) {
        let mut merged: Vec<(Vec<String>, Trouble)> = Vec::new();
        let mut places: BTreeMap<(String, Option<String>), usize> = BTreeMap::new();
        for trouble in troubles {
            let key = (trouble.what.clone(), trouble.mend.clone());
            let name = person(Some(&trouble.username), trouble.id);
            match places.get(&key).and_then(|place| merged.get_mut(*place)) {
                Some((names, _)) => names.push(name),
                None => {
                    places.insert(key, merged.len());
                    merged.push((vec![name], trouble));
                }
            }
        }
        for (names, trouble) in merged {
            self.line("  ", &named(&names));
            self.line("    ", &trouble.what);
            if let Some(mend) = &trouble.mend {
                let mend = if names.len() == 1 { for_person(mend, &trouble.username) } else { mend.clone() };
                self.line("    → ", &mend);
            }
        }
    }

    /// The whole text.
    pub(super) fn finish(self) -> String {
        self.text
    }
}

/// Something about a person that somebody has to look at.
pub(super) struct Trouble {
    pub(super) id: DefguardId,
    pub(super) username: String,
    pub(super) what: String,
    pub(super) mend: Option<String>,
}

/// Advice in which `USER` stands for the person, with their name.
pub(super) fn for_person(mend: &str, username: &str) -> String {
    mend.replace("link USER", &format!("link {username}"))
}

/// A person for people: name and number.
pub(super) fn person(username: Option<&str>, id: DefguardId) -> String {
    username.map_or_else(|| format!("#{id}"), |username| format!("{username} (#{id})"))
}

/// The first of many names, and how many more there are.
pub(super) fn named(names: &[String]) -> String {
    let mut text = names.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > NAMED {
        let _ = write!(text, " and {} more", names.len() - NAMED);
    }
    text
}

/// The usernames that are known.
#[derive(Default)]
pub(super) struct Names(BTreeMap<DefguardId, String>);

impl Names {
    /// Puts names to the numbers in a text (`#13`).
    pub(super) fn spell(&self, text: &str) -> String {
        let mut parts = text.split('#');
        let mut spelt = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let end = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
            let (digits, rest) = part.split_at(end);
            let name = digits.parse().ok().and_then(|id| self.0.get(&DefguardId(id)));
            match name {
                Some(name) if !spelt.ends_with('(') => {
                    let _ = write!(spelt, "{name} (#{digits})");
                }
                _ => {
                    let _ = write!(spelt, "#{digits}");
                }
            }
            spelt.push_str(rest);
        }
        spelt
    }

    /// The name of one person.
    pub(super) fn of(&self, id: DefguardId) -> String {
        person(self.0.get(&id).map(String::as_str), id)
    }
}

impl<'a> FromIterator<(DefguardId, &'a Username)> for Names {
    fn from_iter<T: IntoIterator<Item = (DefguardId, &'a Username)>>(names: T) -> Self {
        Self(names.into_iter().map(|(id, username)| (id, username.as_str().to_owned())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_wrapped_between_words_and_hangs_below_its_beginning() {
        let mut page = Page::new(Some(20));
        page.line("  → ", "rename one of the two people");
        assert_eq!(page.finish(), "  → rename one of\n    the two people\n");
    }

    #[test]
    fn a_word_that_does_not_fit_stays_whole() {
        let mut page = Page::new(Some(10));
        page.line("", "to @somebody:example.org now");
        assert_eq!(page.finish(), "to\n@somebody:example.org\nnow\n");
    }

    #[test]
    fn nothing_is_wrapped_where_no_terminal_is() {
        let mut page = Page::new(None);
        let long = "word ".repeat(100);
        page.line("", &long);
        page.table(["a", "b"], vec![[long.trim_end().to_owned(), "x".to_owned()]]);
        assert_eq!(page.finish().lines().count(), 4);
    }

    #[test]
    fn no_line_of_a_table_ends_with_a_blank() {
        let mut page = Page::new(Some(80));
        page.table(["a", "b"], vec![["x".to_owned(), String::new()], ["y".to_owned(), "z".to_owned()]]);
        let text = page.finish();
        assert!(text.lines().all(|line| line.trim_end() == line), "{text:?}");
        assert_eq!(text.lines().count(), 4);
    }

    #[test]
    fn what_would_steer_the_terminal_is_shown_as_text() {
        let mut page = Page::new(None);
        page.line("", "a\u{1b}[2Jb");
        page.table(["a"], vec![["x\u{1b}[2J\ny".to_owned()]]);
        assert!(!page.finish().contains('\u{1b}'));
    }

    #[test]
    fn numbers_get_the_names_that_are_known() {
        let alice = Username::new("alice");
        let names: Names = [(DefguardId(3), &alice)].into_iter().collect();
        assert_eq!(names.spell("#3, #33 and bob (#3) # x"), "alice (#3), #33 and bob (#3) # x");
    }

    #[test]
    fn people_with_the_same_trouble_are_named_together() {
        let trouble = |id, username: &str, what: &str| Trouble {
            id: DefguardId(id),
            username: username.to_owned(),
            what: what.to_owned(),
            mend: Some("run `unlink USER`".to_owned()),
        };
        let mut page = Page::new(None);
        page.troubles(vec![trouble(1, "a", "x"), trouble(2, "b", "y"), trouble(3, "c", "x")]);
        let expected =
            "  a (#1), c (#3)\n    x\n    → run `unlink USER`\n  b (#2)\n    y\n    → run `unlink b`\n";
        assert_eq!(page.finish(), expected);
    }
}
