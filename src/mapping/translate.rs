//! Turns a Jinja2 template into one that minijinja runs with Python's meaning.
//!
//! minijinja parses as Jinja2 does, and its statements, scopes and macros behave alike. Its operators, look-ups and
//! filters do not in every case: it orders a number before a text where Python fails, prints large floats in full,
//! has one kind of look-up where Jinja2 has two, and offers no hook for any of this. So the parsed template is
//! written out again with each operator, look-up, filter, test and call handed to a function of ours (see
//! [`super::engine`]) and each literal put in a variable. On the way, everything that cannot be done is refused.

mod exprs;
mod rules;

use std::collections::BTreeSet;

use minijinja::{
    Value,
    machinery::{
        Span,
        ast::{Expr, Macro, Spanned, Stmt},
        parse,
    },
    syntax::SyntaxConfig,
};

use super::{
    Purpose, globals,
    refused::{ProblemKind, TemplateProblem},
};
use crate::domain::MappedField;

/// So many expressions and statements may stand in one another. Each level takes some KiB of the stack.
const DEEPEST: usize = 64;
/// The longest template, in bytes. A chain of filters as long as this can still be read without too deep a stack.
const LONGEST: usize = 10_000;
/// So many `elif` a template may have. minijinja reads them one inside the other.
const MOST_ELIF: usize = 500;

/// A template in minijinja's terms.
#[derive(Debug)]
pub(super) struct Translated {
    /// What minijinja compiles. Names of the template begin with `v_`.
    pub(super) source: String,
    /// The literals, which the source calls `k0`, `k1` and so on.
    pub(super) literals: Vec<Value>,
}

/// Translates a template, or says everything that is wrong with it.
pub(super) fn translate(
    field: MappedField,
    purpose: Purpose,
    source: &str,
) -> Result<Translated, Vec<TemplateProblem>> {
    // Jinja2 does the same to templates and to the literals in them.
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut translator = Translator {
        field,
        purpose,
        source: &source,
        out: String::new(),
        literals: Vec::new(),
        problems: Vec::new(),
        macros: BTreeSet::new(),
        soft: false,
        loops: 0,
        nested: false,
        captured: false,
        visible: None,
        temporaries: 0,
        depth: 0,
        too_deep: false,
    };
    if source.contains(|c: char| ('\x1c'..='\x1f').contains(&c)) {
        translator.refuse(None, "the separators U+001C to U+001F are white space to Python only", None);
    }
    if source.contains("+}}") {
        translator.refuse(None, "`+}}` is the end of an expression to minijinja only", None);
    }
    if let Some(why) = unreadable(&source) {
        translator.refuse(None, &why, Some("write it shorter"));
        return Err(translator.problems);
    }
    match parse(&source, field.template_key(), SyntaxConfig::default()) {
        Ok(Stmt::Template(template)) => {
            for statement in &template.children {
                if let Stmt::Macro(definition) = statement {
                    translator.macros.insert(definition.name.to_owned());
                }
            }
            translator.statements(&template.children);
        }
        Ok(_) => translator.refuse(None, "the template could not be read", None),
        Err(error) => translator.problems.push(TemplateProblem {
            field,
            kind: ProblemKind::Broken,
            line: error.line(),
            column: error.range().and_then(|range| column(&source, range.start)),
            why: format!("the template cannot be read: {}", error.detail().unwrap_or("syntax error")),
            instead: None,
        }),
    }
    if translator.problems.is_empty() {
        Ok(Translated { source: translator.out, literals: translator.literals })
    } else {
        Err(translator.problems)
    }
}

/// Why a template is not even parsed: minijinja reads these things by a recursion that it does not bound.
fn unreadable(source: &str) -> Option<String> {
    if source.len() > LONGEST {
        return Some(format!("the template is longer than {LONGEST} bytes"));
    }
    if source.matches("elif").count() > MOST_ELIF {
        return Some(format!("the template has more than {MOST_ELIF} `elif`"));
    }
    let (mut rest, mut prefixes) = (source, 0);
    while let Some(first) = rest.chars().next() {
        if rest.starts_with('-') || rest.starts_with("not") {
            prefixes += 1;
        } else if !first.is_whitespace() {
            prefixes = 0;
        }
        if prefixes > DEEPEST {
            return Some(format!("the template has more than {DEEPEST} `-` or `not` in a row"));
        }
        let step = if rest.starts_with("not") { 3 } else { first.len_utf8() };
        rest = &rest[step..];
    }
    None
}

fn column(source: &str, offset: usize) -> Option<usize> {
    let before = source.get(..offset)?;
    Some(before.rsplit('\n').next().unwrap_or(before).chars().count() + 1)
}

/// Names that mean something of their own to Jinja2.
const RESERVED: &[&str] = &["self", "super", "caller", "varargs", "kwargs", "context", "environment"];

struct Translator<'s> {
    field: MappedField,
    purpose: Purpose,
    source: &'s str,
    out: String,
    literals: Vec<Value>,
    problems: Vec<TemplateProblem>,
    macros: BTreeSet<String>,
    /// Whether an unknown filter fails only when reached: within `{% if %}` and `… if …`, as in Jinja2.
    soft: bool,
    /// How many loops we are in.
    loops: usize,
    /// Whether we are inside another statement, where macros and blocks are not expected.
    nested: bool,
    /// Whether we are in a body whose assignments Jinja2 would not let out.
    captured: bool,
    /// In a macro or block: the names that can be used.
    visible: Option<BTreeSet<String>>,
    temporaries: usize,
    /// How many expressions and statements we are inside of.
    depth: usize,
    /// Whether it was said already that they are too many.
    too_deep: bool,
}

impl<'s> Translator<'s> {
    fn problem(&mut self, kind: ProblemKind, at: Option<Span>, why: String, instead: Option<String>) {
        self.problems.push(TemplateProblem {
            field: self.field,
            kind,
            line: at.map(|at| usize::from(at.start_line)),
            column: at.and_then(|at| column(self.source, at.start_offset as usize)),
            why,
            instead,
        });
    }

    fn refuse(&mut self, at: Option<Span>, why: &str, instead: Option<&str>) {
        self.problem(ProblemKind::Refused, at, why.to_owned(), instead.map(str::to_owned));
    }

    fn temporary(&mut self) -> String {
        self.temporaries += 1;
        format!("t{}", self.temporaries)
    }

    fn literal(&mut self, value: Value) -> String {
        self.literals.push(value);
        format!("k{}", self.literals.len() - 1)
    }

    /// Runs `inner` as the body of a statement that has a scope of its own.
    fn scoped(&mut self, captured: bool, inner: impl FnOnce(&mut Self)) {
        let before = (self.soft, self.nested, self.captured);
        (self.soft, self.nested, self.captured) = (false, true, captured);
        inner(self);
        (self.soft, self.nested, self.captured) = before;
    }

    fn softly<T>(&mut self, inner: impl FnOnce(&mut Self) -> T) -> T {
        let before = std::mem::replace(&mut self.soft, true);
        let result = inner(self);
        self.soft = before;
        result
    }

    fn statements(&mut self, statements: &[Stmt<'_>]) {
        for statement in statements {
            self.statement(statement);
        }
    }

    fn push(&mut self, text: &str) {
        self.out.push_str(text);
    }

    fn statement(&mut self, statement: &Stmt<'_>) {
        self.deeper(None, |this| this.statement_here(statement));
    }

    /// Runs `inner` one level further down, unless that is deeper than the stack may bear.
    fn deeper<T: Default>(&mut self, at: Option<Span>, inner: impl FnOnce(&mut Self) -> T) -> T {
        if self.depth >= DEEPEST {
            if !self.too_deep {
                self.too_deep = true;
                let why = format!("the template is nested more than {DEEPEST} levels deep");
                self.problem(ProblemKind::Refused, at, why, Some("split it up with `{% set %}`".to_owned()));
            }
            return T::default();
        }
        self.depth += 1;
        let result = inner(self);
        self.depth -= 1;
        result
    }

    fn statement_here(&mut self, statement: &Stmt<'_>) {
        match statement {
            Stmt::Template(template) => self.statements(&template.children),
            Stmt::EmitRaw(raw) => {
                let name = self.literal(Value::from(raw.raw));
                self.push(&format!("{{{{ {name} }}}}"));
            }
            Stmt::EmitExpr(emit) => {
                let expr = self.expr(&emit.expr);
                self.push(&format!("{{{{ {expr} }}}}"));
            }
            Stmt::IfCond(cond) => self.softly(|this| {
                let test = this.expr(&cond.expr);
                let nested = std::mem::replace(&mut this.nested, true);
                this.push(&format!("{{% if {test} %}}"));
                this.statements(&cond.true_body);
                this.push("{% else %}");
                this.statements(&cond.false_body);
                this.push("{% endif %}");
                this.nested = nested;
            }),
            Stmt::ForLoop(each) => {
                if each.recursive {
                    self.refuse(Some(each.span()), "recursive loops are not done", None);
                }
                let items = self.expr(&each.iter);
                let (target, count) = self.targets(&each.target);
                self.scoped(self.captured, |this| {
                    let filter = each.filter_expr.as_ref().map(|filter| {
                        let outside = std::mem::replace(&mut this.loops, 0);
                        let filter = this.expr(filter);
                        this.loops = outside;
                        format!(" if {filter}")
                    });
                    this.push(&format!(
                        "{{% for {target} in _loop({items}, {count}){} %}}",
                        filter.unwrap_or_default()
                    ));
                    this.loops += 1;
                    this.statements(&each.body);
                    this.loops -= 1;
                    if !each.else_body.is_empty() {
                        // Without a scope of its own it would let assignments out.
                        this.push("{% else %}{% with %}");
                        this.statements(&each.else_body);
                        this.push("{% endwith %}");
                    }
                    this.push("{% endfor %}");
                });
            }
            Stmt::WithBlock(with) => {
                // All values are computed before the first name is bound.
                let values: Vec<_> = with.assignments.iter().map(|(_, value)| self.expr(value)).collect();
                let names: Vec<_> = values.iter().map(|_| self.temporary()).collect();
                let pairs = |names: &[String], values: &[String]| {
                    let pairs = names.iter().zip(values).map(|(name, value)| format!("{name}={value}"));
                    pairs.collect::<Vec<_>>().join(", ")
                };
                let mut targets = Vec::new();
                for (target, _) in &with.assignments {
                    match target {
                        Expr::Var(_) => targets.push(self.targets(target).0),
                        other => self.refuse(Some(other.span()), "`with` binds single names only", None),
                    }
                }
                let (outer, inner) = (pairs(&names, &values), pairs(&targets, &names));
                self.push(&format!("{{% with {outer} %}}{{% with {inner} %}}"));
                self.scoped(self.captured, |this| this.statements(&with.body));
                self.push("{% endwith %}{% endwith %}");
            }
            Stmt::Set(set) => {
                let value = self.expr(&set.expr);
                self.assign(&set.target, &value, set.span());
            }
            Stmt::SetBlock(block) => {
                let captured = self.capture(&block.body);
                let value = match &block.filter {
                    Some(filter) => self.chain(filter, &captured),
                    None => captured,
                };
                self.assign(&block.target, &value, block.span());
            }
            Stmt::FilterBlock(block) => {
                let captured = self.capture(&block.body);
                let value = self.chain(&block.filter, &captured);
                self.push(&format!("{{{{ {value} }}}}"));
            }
            Stmt::Macro(definition) => self.macro_definition(definition),
            Stmt::Block(block) => {
                if self.nested || block.required {
                    self.refuse(Some(block.span()), "blocks within other statements are not done", None);
                }
                let outside = self.visible.replace(BTreeSet::new());
                self.scoped(true, |this| this.statements(&block.body));
                self.visible = outside;
            }
            Stmt::Extends(_) | Stmt::Include(_) | Stmt::Import(_) | Stmt::FromImport(_) => {
                self.push("{{ _loader() }}");
            }
            Stmt::CallBlock(call) => self.refuse(Some(call.span()), "`{% call %}` is not supported", None),
            Stmt::AutoEscape(escape) => {
                self.refuse(
                    Some(escape.span()),
                    "`{% autoescape %}` is not supported",
                    Some("use the filter `e`"),
                );
            }
            Stmt::Do(call) => self.problem(
                ProblemKind::Broken,
                Some(call.span()),
                "Encountered unknown tag 'do'.".to_owned(),
                None,
            ),
        }
    }

    /// Writes a body whose output goes into a variable, and gives its name.
    fn capture(&mut self, body: &[Stmt<'_>]) -> String {
        let name = self.temporary();
        self.push(&format!("{{% set {name} %}}"));
        self.scoped(true, |this| this.statements(body));
        self.push("{% endset %}");
        name
    }

    /// A chain of filters over a captured body.
    fn chain(&mut self, filters: &Expr<'_>, input: &str) -> String {
        let Expr::Filter(filter) = filters else { return input.to_owned() };
        let before = std::mem::replace(&mut self.soft, false);
        let inner = match &filter.expr {
            Some(inner) => self.chain(inner, input),
            None => input.to_owned(),
        };
        let value = self.filter(filter, &inner, filter.span());
        self.soft = before;
        value
    }

    fn macro_definition(&mut self, definition: &Spanned<Macro<'_>>) {
        let at = Some(definition.span());
        if self.nested {
            self.refuse(at, "macros within other statements are not done", Some("define it at the top"));
        }
        if !definition.defaults.is_empty() {
            self.refuse(
                at,
                "defaults of macro arguments are not done",
                Some("give every argument in the call"),
            );
        }
        let mut names = BTreeSet::new();
        let mut targets = Vec::new();
        for argument in &definition.args {
            if let Expr::Var(name) = argument {
                names.insert(name.id.to_owned());
            }
            targets.push(self.targets(argument).0);
        }
        let outside = self.visible.replace(names);
        let loops = std::mem::replace(&mut self.loops, 0);
        self.push(&format!("{{% macro v_{}({}) %}}", definition.name, targets.join(", ")));
        self.scoped(false, |this| this.statements(&definition.body));
        self.push("{% endmacro %}");
        self.loops = loops;
        self.visible = outside;
    }

    fn assign(&mut self, target: &Expr<'_>, value: &str, at: Span) {
        if let Expr::GetAttr(attribute) = target {
            let Expr::Var(_) = attribute.expr else {
                self.refuse(Some(at), "an assignment to an attribute of an attribute is not supported", None);
                return;
            };
            let (namespace, name) = (self.expr(&attribute.expr), self.temporary());
            self.push(&format!("{{% set {name} = _assign({namespace}, \"{}\", {value}) %}}", attribute.name));
            return;
        }
        if self.captured {
            self.refuse(
                Some(at),
                "an assignment within a block, `{% filter %}` or `{% set %}` body is not supported",
                None,
            );
        }
        let (target, count) = self.targets(target);
        if count > 1 {
            self.push(&format!("{{% set {target} = _unpack({value}, {count}) %}}"));
        } else {
            self.push(&format!("{{% set {target} = {value} %}}"));
        }
    }

    /// The names that an assignment or loop binds, and how many.
    fn targets(&mut self, target: &Expr<'_>) -> (String, usize) {
        match target {
            Expr::Var(name) => {
                let id = name.id;
                if id == "user"
                    || id == "loop"
                    || id == "lipsum"
                    || globals::GLOBALS.contains(&id)
                    || RESERVED.contains(&id)
                    || self.macros.contains(id)
                {
                    self.refuse(
                        Some(name.span()),
                        &format!("the name `{id}` cannot be given to something else"),
                        Some("choose another name"),
                    );
                }
                if let Some(visible) = &mut self.visible {
                    visible.insert(id.to_owned());
                }
                (format!("v_{id}"), 1)
            }
            Expr::List(list) if list.items.iter().all(|item| matches!(item, Expr::Var(_))) => {
                if list.items.len() < 2 {
                    self.refuse(Some(list.span()), "unpacking into a single name is not supported", None);
                }
                let names: Vec<_> = list.items.iter().map(|item| self.targets(item).0).collect();
                (names.join(", "), names.len())
            }
            other => {
                self.refuse(Some(other.span()), "unpacking into nested names is not supported", None);
                ("v_".to_owned(), 1)
            }
        }
    }
}
