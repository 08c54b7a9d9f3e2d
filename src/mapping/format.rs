//! Python's `%` and `str.format()`, as far as they can be done exactly.

use minijinja::{Error, Value};

use super::{
    arguments::Arguments,
    print,
    value::{Kind, LARGEST, cannot, equal, fails, pairs},
};

/// `format % right`.
pub(super) fn percent(format: &str, right: &Value) -> Result<String, Error> {
    let (places, mapping) = match Kind::of(right) {
        Kind::Tuple(items) => (items, None),
        // Escaped text would have to be escaped piece by piece.
        _ if right.is_safe() => return Err(cannot("`%` with escaped text")),
        Kind::Dict(_) | Kind::User(_) => (vec![right.clone()], pairs(right)),
        // Whatever can be asked for an entry counts as a mapping here: `'x' % []` is no error.
        Kind::List(_) | Kind::Range(_) | Kind::Undefined => (vec![right.clone()], Some(Vec::new())),
        _ => (vec![right.clone()], None),
    };
    let mut places = places.into_iter();
    let mut named = false;
    let mut out = String::new();
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut name = None;
        if chars.next_if_eq(&'(').is_some() {
            let mut text = String::new();
            loop {
                match chars.next() {
                    Some(')') => break,
                    Some('(') => return Err(cannot("parentheses in a `%(name)`")),
                    Some(c) => text.push(c),
                    None => return Err(fails("incomplete format key")),
                }
            }
            name = Some(text);
        }
        let mut spec = Spec::default();
        while let Some(flag) = chars.next_if(|c| "-0+ #".contains(*c)) {
            match flag {
                '-' => spec.align = Some('<'),
                '0' => spec.zero = true,
                '+' => spec.plus = true,
                ' ' => spec.space = true,
                _ => return Err(cannot("the flag `#` in a `%` format")),
            }
        }
        spec.width = digits(&mut chars)?;
        if chars.next_if_eq(&'.').is_some() {
            spec.precision = Some(digits(&mut chars)?.unwrap_or(0));
        }
        let Some(conversion) = chars.next() else { return Err(fails("incomplete format")) };
        if conversion == '%' {
            if spec != Spec::default() || name.is_some() {
                return Err(cannot("options of `%%`"));
            }
            out.push('%');
            continue;
        }
        let value = match &name {
            Some(name) => {
                named = true;
                let Some(pairs) = &mapping else { return Err(fails("format requires a mapping")) };
                if !matches!(Kind::of(right), Kind::Dict(_) | Kind::User(_)) {
                    return Err(fails("format requires a mapping"));
                }
                let key = Value::from(name.as_str());
                let found = pairs.iter().find(|(other, _)| equal(other, &key));
                found.map(|(_, value)| value.clone()).ok_or_else(|| fails(format!("KeyError: {name}")))?
            }
            None if named => return Err(cannot("`%(name)s` and `%s` in one format")),
            None => places.next().ok_or_else(|| fails("not enough arguments for format string"))?,
        };
        out.push_str(&convert(&value, conversion, spec)?);
        if out.len() > LARGEST {
            return Err(cannot("a text of such a length"));
        }
    }
    if mapping.is_none() && places.next().is_some() {
        return Err(fails("not all arguments converted during string formatting"));
    }
    Ok(out)
}

fn convert(value: &Value, conversion: char, spec: Spec) -> Result<String, Error> {
    match conversion {
        's' | 'r' | 'a' => {
            if value.is_safe() {
                return Err(cannot("`%` with escaped text"));
            }
            let text = match conversion {
                's' => print::string(value)?,
                'r' => print::repr(value)?,
                _ => return Err(cannot("`%a`")),
            };
            let text = match spec.precision {
                Some(n) => text.chars().take(n).collect(),
                None => text,
            };
            Ok(spec.pad(&text, '>'))
        }
        'd' | 'i' | 'u' => {
            let number = match Kind::of(value) {
                Kind::Float(f) if f.is_finite() && f.abs() < 1e15 => {
                    // Within these bounds the whole part fits.
                    #[allow(clippy::cast_possible_truncation)]
                    let whole = f.trunc() as i128;
                    whole
                }
                Kind::Float(_) => return Err(cannot("`%d` of such a float")),
                kind => kind.index().ok_or_else(|| {
                    fails(format!("%d format: a real number is required, not {}", kind.name()))
                })?,
            };
            if spec.precision.is_some() {
                return Err(cannot("a precision with `%d`"));
            }
            Ok(spec.number(number < 0, &number.unsigned_abs().to_string()))
        }
        'x' | 'X' | 'o' => {
            let kind = Kind::of(value);
            let number = kind.index().ok_or_else(|| {
                fails(format!("%{conversion} format: an integer is required, not {}", kind.name()))
            })?;
            if spec.precision.is_some() {
                return Err(cannot("a precision with `%x`"));
            }
            let digits = number.unsigned_abs();
            let digits = match conversion {
                'x' => format!("{digits:x}"),
                'X' => format!("{digits:X}"),
                _ => format!("{digits:o}"),
            };
            Ok(spec.number(number < 0, &digits))
        }
        'f' | 'F' => {
            let f = real(value)?
                .ok_or_else(|| fails(format!("must be real number, not {}", Kind::of(value).name())))?;
            Ok(spec.number(f.is_sign_negative(), &format!("{:.*}", spec.precision.unwrap_or(6), f.abs())))
        }
        _ if "cgGeE".contains(conversion) => Err(cannot(&format!("`%{conversion}`"))),
        _ => Err(fails(format!("unsupported format character '{conversion}'"))),
    }
}

/// The value as a finite float that came about without loss; `None` if it is no number.
fn real(value: &Value) -> Result<Option<f64>, Error> {
    match Kind::of(value) {
        Kind::Float(f) if f.is_finite() => Ok(Some(f)),
        Kind::Float(_) => Err(cannot("formatting an infinite number")),
        kind => match kind.index() {
            Some(i) if i.unsigned_abs() < 1 << 53 => {
                #[allow(clippy::cast_precision_loss)]
                let f = i as f64;
                Ok(Some(f))
            }
            Some(_) => Err(cannot("formatting such a large number")),
            None => Ok(None),
        },
    }
}

fn digits(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<Option<usize>, Error> {
    let mut text = String::new();
    while let Some(c) = chars.next_if(char::is_ascii_digit) {
        text.push(c);
    }
    if chars.peek() == Some(&'*') {
        return Err(cannot("`*` in a `%` format"));
    }
    if text.is_empty() {
        return Ok(None);
    }
    match text.parse() {
        Ok(n) if n <= 1000 => Ok(Some(n)),
        _ => Err(cannot("such a width in a format")),
    }
}

/// What stands between `%` and the conversion, or behind the colon of a field in braces.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Spec {
    fill: Option<char>,
    align: Option<char>,
    zero: bool,
    plus: bool,
    space: bool,
    width: Option<usize>,
    precision: Option<usize>,
}

impl Spec {
    fn pad(&self, text: &str, default: char) -> String {
        let missing = self.width.unwrap_or(0).saturating_sub(text.chars().count());
        let left = match self.align.unwrap_or(default) {
            '<' => 0,
            '^' => missing / 2,
            _ => missing,
        };
        let fill = |n: usize| self.fill.unwrap_or(' ').to_string().repeat(n);
        format!("{}{text}{}", fill(left), fill(missing - left))
    }

    fn number(&self, negative: bool, digits: &str) -> String {
        let sign = match (negative, self.plus, self.space) {
            (true, ..) => "-",
            (_, true, _) => "+",
            (_, _, true) => " ",
            _ => "",
        };
        if self.zero && self.align.is_none() {
            let missing = self.width.unwrap_or(0).saturating_sub(sign.len() + digits.len());
            return format!("{sign}{}{digits}", "0".repeat(missing));
        }
        self.pad(&format!("{sign}{digits}"), '>')
    }
}

/// `format.format(…)`.
pub(super) fn braces(format: &str, args: &Arguments) -> Result<String, Error> {
    let mut out = String::new();
    let mut automatic = 0;
    let mut numbered = false;
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '{' if chars.next_if_eq(&'{').is_some() => out.push('{'),
            '}' if chars.next_if_eq(&'}').is_some() => out.push('}'),
            '}' => return Err(fails("Single '}' encountered in format string")),
            '{' => {
                let mut field = String::new();
                loop {
                    match chars.next() {
                        Some('}') => break,
                        Some('{') => return Err(cannot("a field within a field of format()")),
                        Some(c) => field.push(c),
                        None => return Err(fails("expected '}' before end of string")),
                    }
                }
                let (field, spec) = field.split_once(':').unwrap_or((&field, ""));
                let (name, conversion) = match field.split_once('!') {
                    Some((name, conversion)) => (name, Some(conversion)),
                    None => (field, None),
                };
                let value = if name.is_empty() {
                    if numbered {
                        return Err(fails(
                            "cannot switch from manual field specification to automatic field numbering",
                        ));
                    }
                    automatic += 1;
                    args.places.get(automatic - 1).ok_or_else(|| fails("Replacement index out of range"))?
                } else if name.bytes().all(|b| b.is_ascii_digit()) {
                    if automatic > 0 {
                        return Err(fails(
                            "cannot switch from automatic field numbering to manual field specification",
                        ));
                    }
                    numbered = true;
                    let at: usize =
                        name.parse().map_err(|_| fails("Too many decimal digits in format string"))?;
                    args.places.get(at).ok_or_else(|| fails("Replacement index out of range"))?
                } else if name.contains(['.', '[', ']']) {
                    return Err(cannot("attributes and subscripts in format()"));
                } else {
                    let named = args.names.iter().find(|(other, _)| other == name);
                    named.map(|(_, value)| value).ok_or_else(|| fails(format!("KeyError: {name}")))?
                };
                out.push_str(&field_text(value, conversion, spec)?);
            }
            c => out.push(c),
        }
        if out.len() > LARGEST {
            return Err(cannot("a text of such a length"));
        }
    }
    Ok(out)
}

fn field_text(value: &Value, conversion: Option<&str>, spec: &str) -> Result<String, Error> {
    if value.is_safe() {
        return Err(cannot("format() with escaped text"));
    }
    let converted = match conversion {
        None => value.clone(),
        Some("s") => Value::from(print::string(value)?),
        Some("r") => Value::from(print::repr(value)?),
        Some(_) => return Err(cannot("this conversion in format()")),
    };
    if spec.is_empty() {
        return print::string(&converted);
    }
    let (spec, kind) = parse(spec)?;
    match (Kind::of(&converted), kind) {
        (Kind::Str(text), None | Some('s')) if !spec.zero && !spec.plus && !spec.space => {
            let text = match spec.precision {
                Some(n) => text.chars().take(n).collect(),
                None => text.to_owned(),
            };
            Ok(spec.pad(&text, '<'))
        }
        (Kind::Int(i), None | Some('d')) if spec.precision.is_none() => {
            Ok(spec.number(i < 0, &i.unsigned_abs().to_string()))
        }
        (Kind::Int(_) | Kind::Float(_), Some('f')) => {
            let f = real(&converted)?.unwrap_or_default();
            Ok(spec.number(f.is_sign_negative(), &format!("{:.*}", spec.precision.unwrap_or(6), f.abs())))
        }
        _ => Err(cannot("this format specification in format()")),
    }
}

fn parse(spec: &str) -> Result<(Spec, Option<char>), Error> {
    let mut parsed = Spec::default();
    let mut chars = spec.chars().peekable();
    let mut ahead = spec.chars();
    let (first, second) = (ahead.next(), ahead.next());
    if second.is_some_and(|c| "<>^=".contains(c)) {
        parsed.fill = first;
        parsed.align = second;
        chars.next();
        chars.next();
    } else if let Some(align) = chars.next_if(|c| "<>^=".contains(*c)) {
        parsed.align = Some(align);
    }
    if parsed.align == Some('=') {
        return Err(cannot("the alignment `=` in format()"));
    }
    match chars.next_if(|c| "+- ".contains(*c)) {
        Some('+') => parsed.plus = true,
        Some(' ') => parsed.space = true,
        _ => {}
    }
    if chars.next_if_eq(&'0').is_some() {
        if parsed.align.is_some() {
            return Err(cannot("an alignment together with `0` in format()"));
        }
        parsed.zero = true;
    }
    parsed.width = digits(&mut chars)?;
    if chars.next_if_eq(&'.').is_some() {
        parsed.precision =
            Some(digits(&mut chars)?.ok_or_else(|| fails("Format specifier missing precision"))?);
    }
    let kind = chars.next();
    if chars.next().is_some() {
        return Err(cannot("this format specification in format()"));
    }
    Ok((parsed, kind))
}
