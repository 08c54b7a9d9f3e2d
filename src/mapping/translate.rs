//! Turns a Jinja2 template into one that minijinja runs with Python's meaning.
//!
//! minijinja parses as Jinja2 does, and its statements, scopes and macros behave alike. Its operators, look-ups and
//! filters do not in every case: it orders a number before a text where Python fails, prints large floats in full,
//! has one kind of look-up where Jinja2 has two, and offers no hook for any of this. So the parsed template is
//! written out again with each operator, look-up, filter, test and call handed to a function of ours (see
//! [`super::engine`]) and each literal put in a variable. On the way, everything that cannot be done is refused.

use std::{collections::BTreeSet, sync::LazyLock};

use minijinja::{
    Value,
    machinery::{
        Span,
        ast::{BinOpKind, Call, CallArg, CompareOpKind, Expr, Filter, Stmt, UnaryOpKind},
        parse,
    },
    syntax::SyntaxConfig,
};
use regex::Regex;

use super::{
    Purpose, checks,
    claims::{FIELDS, LOGIN_CLAIMS},
    filters, ops,
    refused::{ProblemKind, TemplateProblem},
};
use crate::domain::MappedField;

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
    };
    if source.contains(|c: char| ('\x1c'..='\x1f').contains(&c)) {
        translator.refuse(None, "the separators U+001C to U+001F are white space to Python only", None);
    }
    if source.contains("+}}") {
        translator.refuse(None, "`+}}` is the end of an expression to minijinja only", None);
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

fn column(source: &str, offset: usize) -> Option<usize> {
    let before = source.get(..offset)?;
    Some(before.rsplit('\n').next().unwrap_or(before).chars().count() + 1)
}

/// The numbers of Jinja2's lexer.
static NUMBER: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(
        r"(?xi)^( 0b(_?[01])+ | 0o(_?[0-7])+ | 0x(_?[0-9a-f])+ | [1-9](_?[0-9])* | 0(_?0)*
        | ([0-9]+_)*[0-9]+ ( (\.([0-9]+_)*[0-9]+)? e[+\-]?([0-9]+_)*[0-9]+ | \.([0-9]+_)*[0-9]+ ) )$",
    )
    .ok()
});

/// Filters whose result cannot be foretold or is made for people to look at.
const REFUSED_FILTERS: &[&str] = &["random", "pprint", "urlize", "groupby"];

/// Methods that change the object they are called on.
const CHANGING: &[&str] = &[
    "append",
    "clear",
    "extend",
    "insert",
    "pop",
    "popitem",
    "remove",
    "reverse",
    "setdefault",
    "sort",
    "update",
];

/// Names that mean something of their own to Jinja2.
const RESERVED: &[&str] = &["self", "super", "caller", "varargs", "kwargs", "context", "environment"];

const LOOP_FIELDS: &[&str] = &[
    "index",
    "index0",
    "revindex",
    "revindex0",
    "first",
    "last",
    "length",
    "depth",
    "depth0",
    "previtem",
    "nextitem",
];

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
            Stmt::CallBlock(call) => self.refuse(Some(call.span()), "`{% call %}` is not done", None),
            Stmt::AutoEscape(escape) => {
                self.refuse(
                    Some(escape.span()),
                    "`{% autoescape %}` is not done",
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

    fn macro_definition(
        &mut self,
        definition: &minijinja::machinery::ast::Spanned<minijinja::machinery::ast::Macro<'_>>,
    ) {
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
                self.refuse(Some(at), "an assignment to an attribute of an attribute is not done", None);
                return;
            };
            let (namespace, name) = (self.expr(&attribute.expr), self.temporary());
            self.push(&format!("{{% set {name} = _assign({namespace}, \"{}\", {value}) %}}", attribute.name));
            return;
        }
        if self.captured {
            self.refuse(
                Some(at),
                "an assignment within a block, `{% filter %}` or `{% set %}` body is not done",
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
                    || ops::GLOBALS.contains(&id)
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
                    self.refuse(Some(list.span()), "unpacking into a single name is not done", None);
                }
                let names: Vec<_> = list.items.iter().map(|item| self.targets(item).0).collect();
                (names.join(", "), names.len())
            }
            other => {
                self.refuse(Some(other.span()), "unpacking into nested names is not done", None);
                ("v_".to_owned(), 1)
            }
        }
    }

    fn expr(&mut self, expr: &Expr<'_>) -> String {
        match expr {
            Expr::Const(constant) => {
                self.check_literal(constant.span(), &constant.value);
                self.literal(constant.value.clone())
            }
            Expr::Var(var) => {
                if var.id == "user" {
                    self.whole_user(var.span());
                }
                self.variable(var.id, var.span())
            }
            Expr::UnaryOp(unary) => {
                let operand = self.expr(&unary.expr);
                match unary.op {
                    UnaryOpKind::Not => format!("(not {operand})"),
                    UnaryOpKind::Neg => format!("_negate({operand})"),
                }
            }
            Expr::BinOp(binary) => self.binary(binary.op, &binary.left, &binary.right),
            Expr::Compare(compare) => {
                let mut parts = Vec::new();
                let mut left = &compare.expr;
                for (at, op) in compare.ops.iter().enumerate() {
                    if at > 0 && has_call(left) {
                        self.refuse(
                            Some(compare.span()),
                            "a call in the middle of a chain of comparisons is not done",
                            Some("compare with `and`"),
                        );
                    }
                    let (kind, negated) = comparison(op.op);
                    let part = self.binary(kind, left, &op.expr);
                    parts.push(if negated { format!("(not {part})") } else { part });
                    left = &op.expr;
                }
                format!("({})", parts.join(" and "))
            }
            Expr::IfExpr(choice) => self.softly(|this| {
                let test = this.expr(&choice.test_expr);
                let yes = this.expr(&choice.true_expr);
                let no = match &choice.false_expr {
                    Some(no) => this.expr(no),
                    None => "undefined0".to_owned(),
                };
                format!("({yes} if {test} else {no})")
            }),
            Expr::Filter(filter) => {
                if let (Some(Expr::Var(var)), "attr", [CallArg::Pos(Expr::Const(name)), ..]) =
                    (&filter.expr, filter.name, filter.args.as_slice())
                    && var.id == "user"
                {
                    self.user_field(name.value.as_str().unwrap_or_default(), filter.span());
                    return self.filter(filter, "v_user", filter.span());
                }
                let input = match &filter.expr {
                    Some(input) => self.expr(input),
                    None => "undefined0".to_owned(),
                };
                self.filter(filter, &input, filter.span())
            }
            Expr::Test(test) => {
                let chained = matches!(&test.expr, Expr::Test(_))
                    || matches!(&test.expr, Expr::UnaryOp(not) if matches!(not.expr, Expr::Test(_)));
                if chained {
                    self.refuse(Some(test.span()), "one `is` behind another is not done", None);
                }
                let parentheses = self
                    .raw(test.span())
                    .strip_prefix(test.name)
                    .is_some_and(|rest| rest.trim_start().starts_with('('));
                if let ([CallArg::Pos(Expr::UnaryOp(minus))], false) = (test.args.as_slice(), parentheses) {
                    self.problem(
                        ProblemKind::Broken,
                        Some(minus.span()),
                        format!("a negative argument of `is {}` needs parentheses", test.name),
                        None,
                    );
                }
                if !checks::NAMES.contains(&test.name) && !self.soft {
                    self.problem(
                        ProblemKind::Broken,
                        Some(test.span()),
                        format!("No test named '{}'.", test.name),
                        None,
                    );
                }
                let subject = match &test.expr {
                    Expr::Var(var) if var.id == "user" => "v_user".to_owned(),
                    subject => self.expr(subject),
                };
                let args = self.arguments(&test.args, test.span(), false);
                format!("_test(\"{}\", {subject}{args})", test.name)
            }
            Expr::GetAttr(attribute) => self.attribute(&attribute.expr, attribute.name, attribute.span()),
            Expr::GetItem(item) => {
                let object = match &item.expr {
                    Expr::Var(var) if var.id == "user" => {
                        self.user_key(&item.subscript_expr);
                        "v_user".to_owned()
                    }
                    object => self.expr(object),
                };
                if let Expr::Const(name) = &item.subscript_expr
                    && let Some(name) = name.value.as_str()
                {
                    self.check_name(name, item.span());
                }
                let key = self.expr(&item.subscript_expr);
                format!("_item({object}, {key})")
            }
            Expr::Slice(slice) => {
                let object = self.expr(&slice.expr);
                let mut bounds = Vec::new();
                for bound in [&slice.start, &slice.stop, &slice.step] {
                    bounds.push(match bound {
                        Some(bound) => self.expr(bound),
                        None => "none".to_owned(),
                    });
                }
                format!("_slice({object}, {})", bounds.join(", "))
            }
            Expr::Call(call) => self.call(call, call.span()),
            Expr::List(list) => {
                let items: Vec<_> = list.items.iter().map(|item| self.expr(item)).collect();
                format!("_list({})", items.join(", "))
            }
            Expr::Tuple(list) => {
                let items: Vec<_> = list.items.iter().map(|item| self.expr(item)).collect();
                format!("_tuple({})", items.join(", "))
            }
            Expr::Map(map) => {
                let mut items = Vec::new();
                for (key, value) in map.keys.iter().zip(&map.values) {
                    items.push(self.expr(key));
                    items.push(self.expr(value));
                }
                format!("_dict({})", items.join(", "))
            }
        }
    }

    fn variable(&mut self, id: &str, at: Span) -> String {
        if RESERVED.contains(&id) {
            self.refuse(Some(at), &format!("Jinja2's own `{id}` is not done"), None);
        } else if id == "loop" && self.loops > 0 {
            self.refuse(
                Some(at),
                "the loop object can only be asked for its fields",
                Some("use `loop.index` and its like"),
            );
        } else if id == "lipsum" || ops::GLOBALS.contains(&id) || self.macros.contains(id) {
            self.refuse(Some(at), &format!("the function `{id}` can only be called"), None);
        } else if let Some(visible) = &self.visible
            && id != "user"
            && !visible.contains(id)
        {
            self.refuse(
                Some(at),
                &format!("`{id}` comes from outside of the macro or block"),
                Some("hand it over as an argument"),
            );
        }
        format!("v_{id}")
    }

    fn binary(&mut self, op: BinOpKind, left: &Expr<'_>, right: &Expr<'_>) -> String {
        let symbol = match op {
            BinOpKind::ScAnd | BinOpKind::ScOr => {
                // `user and …` never gives `user` itself, which is not empty.
                let tested = is_user(left) && matches!(op, BinOpKind::ScAnd);
                let left = if tested { "v_user".to_owned() } else { self.expr(left) };
                let right = self.expr(right);
                let word = if matches!(op, BinOpKind::ScAnd) { "and" } else { "or" };
                return format!("({left} {word} {right})");
            }
            BinOpKind::In if is_user(right) => {
                self.user_key(left);
                let left = self.expr(left);
                return format!("_binary(\"in\", {left}, v_user)");
            }
            BinOpKind::Eq => "==",
            BinOpKind::Ne => "!=",
            BinOpKind::Lt => "<",
            BinOpKind::Lte => "<=",
            BinOpKind::Gt => ">",
            BinOpKind::Gte => ">=",
            BinOpKind::Add => "+",
            BinOpKind::Sub => "-",
            BinOpKind::Mul => "*",
            BinOpKind::Div => "/",
            BinOpKind::FloorDiv => "//",
            BinOpKind::Rem => "%",
            BinOpKind::Pow => {
                let simple =
                    matches!(left, Expr::Const(_) | Expr::Var(_) | Expr::GetAttr(_) | Expr::GetItem(_));
                if !simple && !matches!(right, Expr::Const(_)) {
                    self.refuse(
                        Some(left.span()),
                        "a computed base of `**` is not done, since Jinja2 gets the sign of constants wrong there",
                        None,
                    );
                }
                "**"
            }
            BinOpKind::Concat => "~",
            BinOpKind::In => "in",
        };
        let (left, right) = (self.expr(left), self.expr(right));
        format!("_binary(\"{symbol}\", {left}, {right})")
    }

    fn filter(&mut self, filter: &Filter<'_>, input: &str, at: Span) -> String {
        if REFUSED_FILTERS.contains(&filter.name) {
            self.refuse(Some(at), &format!("the filter `{}` is not done", filter.name), None);
        } else if !filters::NAMES.contains(&filter.name) && !self.soft {
            self.problem(ProblemKind::Broken, Some(at), format!("No filter named '{}'.", filter.name), None);
        }
        let args = self.arguments(&filter.args, at, false);
        format!("_filter(\"{}\", {input}{args})", filter.name)
    }

    /// Arguments, each with a comma in front.
    fn arguments(&mut self, args: &[CallArg<'_>], at: Span, of_macro: bool) -> String {
        let mut out = String::new();
        let mut names = BTreeSet::new();
        for arg in args {
            match arg {
                CallArg::Pos(value) => {
                    let value = self.expr(value);
                    out.push_str(&format!(", {value}"));
                }
                CallArg::Kwarg(name, value) => {
                    if !names.insert(*name) {
                        self.problem(
                            ProblemKind::Broken,
                            Some(at),
                            format!("keyword argument repeated: {name}"),
                            None,
                        );
                    }
                    let value = self.expr(value);
                    let prefix = if of_macro { "v_" } else { "" };
                    out.push_str(&format!(", {prefix}{name}={value}"));
                }
                CallArg::PosSplat(_) | CallArg::KwargSplat(_) => {
                    self.refuse(Some(at), "`*` and `**` in arguments are not done", None);
                }
            }
        }
        out
    }

    fn attribute(&mut self, object: &Expr<'_>, name: &str, at: Span) -> String {
        self.check_name(name, at);
        if let Expr::Var(var) = object {
            if var.id == "loop" && self.loops > 0 {
                if !LOOP_FIELDS.contains(&name) {
                    self.refuse(Some(at), &format!("`loop.{name}` is not done"), None);
                }
                return format!("loop.{name}");
            }
            if var.id == "user" {
                self.user_field(name, at);
                return format!("_attribute(v_user, \"{name}\")");
            }
        }
        let object = self.expr(object);
        format!("_attribute({object}, \"{name}\")")
    }

    fn call(&mut self, call: &Call<'_>, at: Span) -> String {
        match &call.expr {
            Expr::Var(var) if self.macros.contains(var.id) => {
                let args = self.arguments(&call.args, at, true);
                format!("v_{}({})", var.id, args.trim_start_matches(", "))
            }
            Expr::Var(var) if ops::GLOBALS.contains(&var.id) => {
                let args = self.arguments(&call.args, at, false);
                format!("_global(\"{}\"{args})", var.id)
            }
            Expr::GetAttr(method) => {
                self.check_name(method.name, at);
                let args = self.arguments(&call.args, at, false);
                let object = match &method.expr {
                    Expr::Var(var) if var.id == "loop" && self.loops > 0 => {
                        if method.name != "cycle" || args.contains('=') {
                            self.refuse(Some(at), &format!("`loop.{}()` is not done", method.name), None);
                        }
                        return format!("loop.cycle({})", args.trim_start_matches(", "));
                    }
                    Expr::Var(var) if var.id == "user" && method.name == "get" => {
                        match call.args.first() {
                            Some(CallArg::Pos(key)) => self.user_key(key),
                            _ => self.whole_user(at),
                        }
                        "v_user".to_owned()
                    }
                    object => {
                        let temporary = matches!(object, Expr::Call(_) | Expr::Filter(_) | Expr::Slice(_));
                        if CHANGING.contains(&method.name) && !(temporary && method.name == "pop") {
                            self.refuse(
                                Some(at),
                                &format!("`.{}()` changes an object", method.name),
                                Some("use an expression that makes a new one"),
                            );
                        }
                        self.expr(object)
                    }
                };
                format!("_method({object}, \"{}\"{args})", method.name)
            }
            object => {
                let object = self.expr(object);
                let args = self.arguments(&call.args, at, false);
                format!("_call({object}{args})")
            }
        }
    }

    /// Python's inner attributes lead out of the claims.
    fn check_name(&mut self, name: &str, at: Span) {
        if name.starts_with("__") {
            self.refuse(Some(at), &format!("Python's own attribute `{name}` is not done"), None);
        }
    }

    /// Escapes in a literal that minijinja reads in another way than Python.
    fn check_literal(&mut self, at: Span, value: &Value) {
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
                    &format!("the escape `\\{}` is not done", other.escape_default()),
                    Some("write the character itself, or `\\u` and four hexadecimal digits"),
                ),
            }
        }
    }

    fn raw(&self, at: Span) -> &'s str {
        self.source.get(at.start_offset as usize..at.end_offset as usize).unwrap_or_default()
    }

    fn user_key(&mut self, key: &Expr<'_>) {
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
    fn user_field(&mut self, name: &str, at: Span) {
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
    fn whole_user(&mut self, at: Span) {
        if self.purpose == Purpose::People {
            self.refuse(
                Some(at),
                "`user` as a whole holds claims that belong to a login and are not known before it",
                Some("name the claims that you need"),
            );
        }
    }
}

fn is_user(expr: &Expr<'_>) -> bool {
    matches!(expr, Expr::Var(var) if var.id == "user")
}

fn comparison(op: CompareOpKind) -> (BinOpKind, bool) {
    match op {
        CompareOpKind::Eq => (BinOpKind::Eq, false),
        CompareOpKind::Ne => (BinOpKind::Ne, false),
        CompareOpKind::Lt => (BinOpKind::Lt, false),
        CompareOpKind::Lte => (BinOpKind::Lte, false),
        CompareOpKind::Gt => (BinOpKind::Gt, false),
        CompareOpKind::Gte => (BinOpKind::Gte, false),
        CompareOpKind::In => (BinOpKind::In, false),
        CompareOpKind::NotIn => (BinOpKind::In, true),
    }
}

/// Whether evaluating the expression twice could differ from evaluating it once.
fn has_call(expr: &Expr<'_>) -> bool {
    match expr {
        Expr::Const(_) | Expr::Var(_) => false,
        Expr::GetAttr(attribute) => has_call(&attribute.expr),
        Expr::GetItem(item) => has_call(&item.expr) || has_call(&item.subscript_expr),
        Expr::UnaryOp(unary) => has_call(&unary.expr),
        Expr::BinOp(binary) => has_call(&binary.left) || has_call(&binary.right),
        _ => true,
    }
}
