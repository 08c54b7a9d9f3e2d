//! What can be made to go wrong while the stand-in runs.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use serde_json::{Value, json};

use super::state::State;

type Edit = Arc<dyn Fn(&mut Value) + Send + Sync>;
type Hook = Box<dyn FnOnce(&mut State) + Send>;
/// Told the number of the page and the ids on it.
type Watcher = Box<dyn FnMut(&mut State, u64, &[i64]) + Send>;

/// What happens to a request.
#[derive(Clone)]
pub enum Action {
    /// This answer instead of the real one; the request has no effect.
    Answer { status: u16, headers: Vec<(String, String)>, body: String },
    /// The real answer, so much later. Other faults still apply.
    Delay(Duration),
    /// The connection is closed without an answer; the request has no effect.
    Cut,
    /// The request is carried out, then the connection is closed without an answer.
    LoseAnswer,
    /// The connection is closed in the middle of the real answer's body.
    CutBody,
    /// The real answer, its body cut in half and its length made to fit: broken JSON.
    Truncate,
    /// The real answer with its JSON changed.
    Edit(Edit),
    /// The real answer without this header.
    DropHeader(&'static str),
}

impl fmt::Debug for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Answer { .. } => "Answer",
            Self::Delay(_) => "Delay",
            Self::Cut => "Cut",
            Self::LoseAnswer => "LoseAnswer",
            Self::CutBody => "CutBody",
            Self::Truncate => "Truncate",
            Self::Edit(_) => "Edit",
            Self::DropHeader(_) => "DropHeader",
        })
    }
}

/// An action with the requests it applies to: all, until narrowed down.
#[derive(Debug, Clone)]
pub struct Fault {
    action: Action,
    method: Option<&'static str>,
    path: Option<String>,
    page: Option<u64>,
    skip: usize,
    times: Option<usize>,
}

impl Fault {
    pub fn new(action: Action) -> Self {
        Self { action, method: None, path: None, page: None, skip: 0, times: None }
    }

    /// Any answer.
    pub fn answer(status: u16, content_type: &str, body: &str) -> Self {
        let headers = vec![("content-type".to_owned(), content_type.to_owned())];
        Self::new(Action::Answer { status, headers, body: body.to_owned() })
    }

    /// Defguard's way of saying no: `{"msg": "…"}`.
    pub fn json(status: u16, body: &Value) -> Self {
        Self::answer(status, "application/json", &body.to_string())
    }

    /// The web page, with status 200.
    pub fn html() -> Self {
        Self::answer(200, "text/html", "<html></html>")
    }

    pub fn redirect(location: &str) -> Self {
        let headers = vec![("location".to_owned(), location.to_owned())];
        Self::new(Action::Answer { status: 302, headers, body: String::new() })
    }

    /// The rate limiter's 429.
    pub fn rate_limited(seconds: u64) -> Self {
        let headers = vec![
            ("content-type".to_owned(), "text/plain; charset=utf-8".to_owned()),
            ("retry-after".to_owned(), seconds.to_string()),
            ("x-ratelimit-after".to_owned(), seconds.to_string()),
        ];
        Self::new(Action::Answer {
            status: 429,
            headers,
            body: format!("Too Many Requests! Wait for {seconds}s"),
        })
    }

    pub fn delay(time: Duration) -> Self {
        Self::new(Action::Delay(time))
    }

    pub fn cut() -> Self {
        Self::new(Action::Cut)
    }

    pub fn lose_answer() -> Self {
        Self::new(Action::LoseAnswer)
    }

    pub fn cut_body() -> Self {
        Self::new(Action::CutBody)
    }

    pub fn truncate() -> Self {
        Self::new(Action::Truncate)
    }

    pub fn edit(edit: impl Fn(&mut Value) + Send + Sync + 'static) -> Self {
        Self::new(Action::Edit(Arc::new(edit)))
    }

    pub fn drop_header(name: &'static str) -> Self {
        Self::new(Action::DropHeader(name))
    }

    /// A list that says it has so many people, whatever it shows.
    pub fn wrong_total(total: u64) -> Self {
        Self::edit(move |body| body["pagination"]["total_items"] = json!(total)).on("/api/v1/user")
    }

    /// A list without anybody, in the right shape.
    pub fn everyone_gone() -> Self {
        Self::edit(|body| {
            body["data"] = json!([]);
            for (key, value) in
                [("total_items", json!(0)), ("total_pages", json!(0)), ("next_page", Value::Null)]
            {
                body["pagination"][key] = value;
            }
        })
        .on("/api/v1/user")
    }

    /// Only requests to this path; with `*` at the end, to all that begin so.
    #[must_use]
    pub fn on(mut self, path: &str) -> Self {
        self.path = Some(path.to_owned());
        self
    }

    #[must_use]
    pub fn method(mut self, method: &'static str) -> Self {
        self.method = Some(method);
        self
    }

    /// Only requests for this page.
    #[must_use]
    pub fn page(mut self, page: u64) -> Self {
        self.page = Some(page);
        self
    }

    /// Only after so many such requests.
    #[must_use]
    pub fn after(mut self, requests: usize) -> Self {
        self.skip = requests;
        self
    }

    /// Only so often.
    #[must_use]
    pub fn times(mut self, times: usize) -> Self {
        self.times = Some(times);
        self
    }

    fn applies(&self, method: &str, path: &str, page: Option<u64>) -> bool {
        self.method.is_none_or(|mine| mine == method)
            && self.page.is_none_or(|mine| page == Some(mine))
            && self.path.as_deref().is_none_or(|mine| match mine.strip_suffix('*') {
                Some(start) => path.starts_with(start),
                None => path == mine,
            })
    }
}

/// The faults in force.
#[derive(Default)]
pub struct Faults {
    faults: Vec<Fault>,
    hooks: BTreeMap<u64, Vec<Hook>>,
    watcher: Option<Watcher>,
}

impl Faults {
    pub fn add(&mut self, fault: Fault) {
        self.faults.push(fault);
    }

    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Makes a change after the answer to `GET /user?page=…` was read from the database and before it is sent. Each is
    /// made once; several for one page are used up by one request each, in their order.
    pub fn after_page(&mut self, page: u64, change: impl FnOnce(&mut State) + Send + 'static) {
        self.hooks.entry(page).or_default().push(Box::new(change));
    }

    /// Is told of every page of the list after it was read from the database and before it is sent, and can make changes.
    pub fn on_every_page(&mut self, watcher: impl FnMut(&mut State, u64, &[i64]) + Send + 'static) {
        self.watcher = Some(Box::new(watcher));
    }

    pub(super) fn watch(&mut self, state: &mut State, page: u64, ids: &[i64]) {
        if let Some(watcher) = &mut self.watcher {
            watcher(state, page, ids);
        }
    }

    pub(super) fn take_hook(&mut self, page: u64) -> Option<Hook> {
        let hooks = self.hooks.get_mut(&page)?;
        (!hooks.is_empty()).then(|| hooks.remove(0))
    }

    /// The pauses before a request, and what else happens to it.
    pub(super) fn for_request(
        &mut self,
        method: &str,
        path: &str,
        page: Option<u64>,
    ) -> (Duration, Option<Action>) {
        let mut delay = Duration::ZERO;
        for fault in self.faults.iter_mut().filter(|fault| fault.applies(method, path, page)) {
            if fault.skip > 0 {
                fault.skip -= 1;
                continue;
            }
            match &mut fault.times {
                Some(0) => continue,
                Some(times) => *times -= 1,
                None => {}
            }
            match &fault.action {
                Action::Delay(time) => delay += *time,
                other => return (delay, Some(other.clone())),
            }
        }
        (delay, None)
    }
}
