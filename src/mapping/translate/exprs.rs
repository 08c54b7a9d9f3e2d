//! Expressions.

use std::collections::BTreeSet;

use minijinja::machinery::{
    Span,
    ast::{BinOpKind, Call, CallArg, CompareOpKind, Expr, Filter, UnaryOpKind},
};

use super::{DEEPEST, RESERVED, Translator};
use crate::mapping::{checks, filters, globals, refused::ProblemKind};

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

impl Translator<'_> {
    pub(super) fn expr(&mut self, expr: &Expr<'_>) -> String {
        self.deeper(Some(expr.span()), |this| this.expr_here(expr))
    }

    fn expr_here(&mut self, expr: &Expr<'_>) -> String {
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
                if compare.ops.len() > DEEPEST {
                    let why = format!("more than {DEEPEST} comparisons in one chain are not done");
                    self.refuse(Some(compare.span()), &why, None);
                    return String::new();
                }
                let mut parts = Vec::new();
                let mut left = &compare.expr;
                for (at, op) in compare.ops.iter().enumerate() {
                    if at > 0 && has_call(left) {
                        self.refuse(
                            Some(compare.span()),
                            "a call in the middle of a chain of comparisons is not supported",
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
                    self.refuse(Some(test.span()), "one `is` behind another is not supported", None);
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

    pub(super) fn variable(&mut self, id: &str, at: Span) -> String {
        if RESERVED.contains(&id) {
            self.refuse(Some(at), &format!("Jinja2's own `{id}` is not supported"), None);
        } else if id == "loop" && self.loops > 0 {
            self.refuse(
                Some(at),
                "the loop object can only be asked for its fields",
                Some("use `loop.index` and its like"),
            );
        } else if id == "lipsum" || globals::GLOBALS.contains(&id) || self.macros.contains(id) {
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

    pub(super) fn binary(&mut self, op: BinOpKind, left: &Expr<'_>, right: &Expr<'_>) -> String {
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
                        "a computed base of `**` is not supported, since Jinja2 gets the sign of constants wrong there",
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

    pub(super) fn filter(&mut self, filter: &Filter<'_>, input: &str, at: Span) -> String {
        if REFUSED_FILTERS.contains(&filter.name) {
            self.refuse(Some(at), &format!("the filter `{}` is not supported", filter.name), None);
        } else if !filters::NAMES.contains(&filter.name) && !self.soft {
            self.problem(ProblemKind::Broken, Some(at), format!("No filter named '{}'.", filter.name), None);
        }
        let args = self.arguments(&filter.args, at, false);
        format!("_filter(\"{}\", {input}{args})", filter.name)
    }

    /// Arguments, each with a comma in front.
    pub(super) fn arguments(&mut self, args: &[CallArg<'_>], at: Span, of_macro: bool) -> String {
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

    pub(super) fn attribute(&mut self, object: &Expr<'_>, name: &str, at: Span) -> String {
        self.check_name(name, at);
        if let Expr::Var(var) = object {
            if var.id == "loop" && self.loops > 0 {
                if !LOOP_FIELDS.contains(&name) {
                    self.refuse(Some(at), &format!("`loop.{name}` is not supported"), None);
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

    pub(super) fn call(&mut self, call: &Call<'_>, at: Span) -> String {
        match &call.expr {
            Expr::Var(var) if self.macros.contains(var.id) => {
                let args = self.arguments(&call.args, at, true);
                format!("v_{}({})", var.id, args.trim_start_matches(", "))
            }
            Expr::Var(var) if globals::GLOBALS.contains(&var.id) => {
                let args = self.arguments(&call.args, at, false);
                format!("_global(\"{}\"{args})", var.id)
            }
            Expr::GetAttr(method) => {
                self.check_name(method.name, at);
                let args = self.arguments(&call.args, at, false);
                let object = match &method.expr {
                    Expr::Var(var) if var.id == "loop" && self.loops > 0 => {
                        if method.name != "cycle" || args.contains('=') {
                            self.refuse(
                                Some(at),
                                &format!("`loop.{}()` is not supported", method.name),
                                None,
                            );
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
