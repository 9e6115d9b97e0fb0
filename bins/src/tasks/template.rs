//! The templates of a task: Jinja over the fields of an item, strict about what is missing.

use std::collections::HashMap;
use std::sync::Mutex;

use fancy_regex::Regex;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, UndefinedBehavior, Value};

use crate::infer::chat;

/// The most choices of an item.
const MAX_LIST: usize = 1000;

/// The compiled templates of a task, by name.
#[derive(Debug)]
pub struct Templates {
    environment: Environment<'static>,
    /// Expressions that give lists, by name.
    lists: HashMap<&'static str, String>,
}

impl Default for Templates {
    fn default() -> Self {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        if let Ok(syntax) = SyntaxConfig::builder().keep_trailing_newline(true).build() {
            environment.set_syntax(syntax);
        }
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_unknown_method_callback(method);
        environment.set_fuel(Some(chat::FUEL));
        environment.add_filter("regex_replace", regex_replace);
        Self { environment, lists: HashMap::new() }
    }
}

impl Templates {
    /// Adds a template. Its result is a text.
    ///
    /// # Errors
    /// A source that is not Jinja.
    pub fn add(&mut self, name: &'static str, source: &str) -> Result<(), String> {
        self.environment.add_template_owned(name, source.to_owned()).map_err(|e| format!("{name}: {}", told(&e)))
    }

    /// Adds an expression. Its result is a list of texts.
    ///
    /// # Errors
    /// A source that is no expression.
    pub fn add_list(&mut self, name: &'static str, source: &str) -> Result<(), String> {
        self.environment.compile_expression(source).map_err(|e| format!("{name}: {}", told(&e)))?;
        self.lists.insert(name, source.to_owned());
        Ok(())
    }

    /// Whether there is a template of this name.
    pub fn has(&self, name: &str) -> bool {
        self.environment.get_template(name).is_ok()
    }

    /// Renders a template over an item.
    ///
    /// # Errors
    /// Fields that the item does not have, and all else that a template can fail at, by the template's name.
    pub fn text(&self, name: &str, item: &Value) -> Result<String, String> {
        let template = self.environment.get_template(name).map_err(|e| format!("{name}: {}", told(&e)))?;
        template.render(item).map_err(|e| failed(name, &e, template.undeclared_variables(false), item))
    }

    /// Evaluates the expression of a list over an item.
    ///
    /// # Errors
    /// As [`text`](Self::text); a result that is no list of texts or numbers.
    pub fn list(&self, name: &str, item: &Value) -> Result<Vec<String>, String> {
        let source = self.lists.get(name).ok_or_else(|| format!("the task has no {name}"))?;
        let expression = self.environment.compile_expression(source).map_err(|e| format!("{name}: {}", told(&e)))?;
        let fail = |e: Error| failed(name, &e, expression.undeclared_variables(false), item);
        let value = expression.eval(item).map_err(fail)?;
        if !matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable) {
            let missing = missing(expression.undeclared_variables(false), item);
            return Err(format!("{name} must be a list of texts, not {}{missing}", value.kind()));
        }
        let mut texts = Vec::new();
        for value in value.try_iter().map_err(fail)? {
            if texts.len() == MAX_LIST {
                return Err(format!("{name}: the list has more than {MAX_LIST} texts: give fewer"));
            }
            match value.kind() {
                ValueKind::String | ValueKind::Number => texts.push(value.to_string()),
                kind => return Err(format!("{name} must be a list of texts; one of them is of the kind {kind}")),
            }
        }
        Ok(texts)
    }
}

/// An item as templates see it.
pub fn value(fields: &serde_json::Map<String, serde_json::Value>) -> Value {
    Value::from(Serde(fields))
}

fn told(error: &Error) -> String {
    let detail = error.detail().map_or_else(String::new, |detail| format!(": {detail}"));
    format!("{}{detail}", error.kind())
}

fn failed(name: &str, error: &Error, names: std::collections::HashSet<String>, item: &Value) -> String {
    let undefined =
        error.kind() == ErrorKind::UndefinedError || error.detail().is_some_and(|d| d.contains("undefined"));
    let missing = if undefined { missing(names, item) } else { String::new() };
    format!("{name}: {}{missing}", told(error))
}

/// The names that a template reads and an item does not have.
fn missing(names: std::collections::HashSet<String>, item: &Value) -> String {
    let has = |name: &String| item.get_attr(name).is_ok_and(|value| !value.is_undefined());
    let mut missing: Vec<String> = names.into_iter().filter(|name| !has(name)).collect();
    missing.sort();
    let mut known: Vec<String> = item.try_iter().into_iter().flatten().map(|key| key.to_string()).collect();
    known.sort();
    let known = known.join(", ");
    match missing.is_empty() {
        true => format!("; the item has: {known}"),
        false => format!("; the item has no field {}; it has: {known}", missing.join(", ")),
    }
}

/// Methods of Python's values; `index` beside those of chat templates.
fn method(state: &mut State, value: &Value, name: &str, arguments: &[Value]) -> Result<Value, Error> {
    if name == "index" {
        let (wanted,): (&Value,) = minijinja::value::from_args(arguments)?;
        let place = match (value.as_str(), wanted.as_str()) {
            (Some(text), Some(part)) => text.find(part).map(|at| text[..at].chars().count()),
            _ => value.try_iter()?.position(|item| item == *wanted),
        };
        let problem = || Error::new(ErrorKind::InvalidOperation, format!("{wanted} is not in {value}"));
        return place.map(Value::from).ok_or_else(problem);
    }
    chat::python_method(state, value, name, arguments)
}

/// Python's `re.sub(pattern, replacement, text)`.
fn regex_replace(text: &str, pattern: &str, replacement: &str) -> Result<String, Error> {
    static COMPILED: Mutex<Option<HashMap<String, Regex>>> = Mutex::new(None);
    let problem = |e: String| Error::new(ErrorKind::InvalidOperation, format!("regex_replace: {e}"));
    let mut compiled = COMPILED.lock().map_err(|e| problem(e.to_string()))?;
    let compiled = compiled.get_or_insert_default();
    if !compiled.contains_key(pattern) {
        let regex = Regex::new(pattern).map_err(|e| problem(e.to_string()))?;
        compiled.insert(pattern.to_owned(), regex);
    }
    let replacement = from_python(replacement);
    let replaced = compiled[pattern].try_replacen(text, 0, replacement.as_str());
    replaced.map(std::borrow::Cow::into_owned).map_err(|e| problem(e.to_string()))
}

/// A replacement in Python's notation (`\1`) in that of the crate (`${1}`).
fn from_python(replacement: &str) -> String {
    let mut out = String::new();
    let mut characters = replacement.chars().peekable();
    while let Some(c) = characters.next() {
        match (c, characters.peek()) {
            ('$', _) => out.push_str("$$"),
            ('\\', Some(digit)) if digit.is_ascii_digit() => {
                out.push_str(&format!("${{{digit}}}"));
                characters.next();
            }
            _ => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(json: &str) -> Value {
        value(&serde_json::from_str(json).unwrap())
    }

    #[test]
    fn templates_have_pythons_methods_and_say_what_is_missing() {
        let mut templates = Templates::default();
        templates.add("prompt", "{{ sentence.split('_', 1)[0] ~ option.capitalize() }}\n").unwrap();
        templates.add("target", "{{ choices.label.index(key) }}").unwrap();
        templates.add_list("choices", "choices.text").unwrap();
        let good = item(r#"{"sentence":"a _ b","option":"xY","choices":{"label":["A","B"],"text":["x",2]},"key":"B"}"#);
        assert_eq!(templates.text("prompt", &good).unwrap(), "a Xy\n");
        assert_eq!(templates.text("target", &good).unwrap(), "1");
        assert_eq!(templates.list("choices", &good).unwrap(), ["x", "2"]);
        let bad = item(r#"{"sentence":"a","choices":{"label":["A"],"text":7},"key":"B"}"#);
        let error = templates.text("prompt", &bad).unwrap_err();
        assert!(error.contains("has no field option; it has: choices, key, sentence"), "{error}");
        assert!(templates.text("target", &bad).unwrap_err().contains("B is not in"));
        assert!(templates.list("choices", &bad).unwrap_err().contains("must be a list"));
        templates.add_list("choices", "range(n)").unwrap();
        assert_eq!(templates.list("choices", &item(r#"{"n":1000}"#)).unwrap().len(), MAX_LIST);
        assert!(templates.list("choices", &item(r#"{"n":1001}"#)).unwrap_err().contains("more than 1000 texts"));
        assert!(templates.add("prompt", "{{ a").is_err() && templates.add_list("choices", "a b").is_err());
    }

    #[test]
    fn replacements_are_pythons() {
        assert_eq!(regex_replace("( a )  [b]", r"\(\s*([^\)]*?)\s*\)", r"(\1)").unwrap(), "(a)  [b]");
        assert_eq!(regex_replace("x [a] y [b]", r"\[.*?\]", "$").unwrap(), "x $ y $");
        assert!(regex_replace("", "(", "").is_err());
    }
}
