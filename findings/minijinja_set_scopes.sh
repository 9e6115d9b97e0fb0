#!/usr/bin/env bash
# minijinja 3.1.0 with the Python methods of minijinja-contrib 3.1.0 (crates.io), beside jinja2 3.1.6 (PyPI). Three
# constructs of chat templates give another prompt; the first two are scopes, where the two agree in every simpler case.
#   a variable that is set inside a set block   jinja2: gone after endset   minijinja: stays
#   a macro that assigns ns.x                   jinja2: assigns             minijinja: "ns is undefined", unless the
#                                                                           macro also reads ns somewhere
#   p.items of a dict p with a key "items",     jinja2: dict's method, so   minijinja: the value
#   as JSON Schema gives every array            p.items.type is empty
# What works in both: variables set outside of set blocks, ns as an argument of the macro, p['items'].
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/src"
cat > "$work/Cargo.toml" <<'TOML'
[package]
name = "minijinja_set_scopes"
version = "0.0.0"
edition = "2024"
[dependencies]
minijinja = { version = "=3.1.0", features = ["json"] }
minijinja-contrib = { version = "=3.1.0", features = ["pycompat"] }
TOML
cat > "$work/src/main.rs" <<'RUST'
use minijinja::{Environment, context};

/// One template a line of the input, one result a line of the output.
fn main() {
    let mut environment = Environment::new();
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    let context = context! { p => context! { type => "array", items => context! { type => "string" } } };
    for template in std::io::stdin().lines() {
        match environment.render_str(&template.unwrap(), &context) {
            Ok(text) => println!("{text}"),
            Err(error) => println!("{}", error.detail().unwrap_or("error")),
        }
    }
}
RUST
(cd "$work" && CARGO_TARGET_DIR="$work/target" cargo build --quiet)
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check jinja2==3.1.6
cat > "$work/look.py" <<'PYTHON'
import subprocess, sys

from jinja2.sandbox import ImmutableSandboxedEnvironment

UNDEFINED = "can only assign to namespaces, not undefined (`ns` is undefined)"
NS = "{% set ns = namespace(x=0) %}"
cases = [
    ("{% set x = 1 %}{% set y %}{% set x = 2 %}{{ x }}{% endset %}{{ y }} {{ x }}", "2 1", "2 2"),
    (NS + "{% macro f() %}{% set ns.x = 5 %}{% endmacro %}{{ f() }}{{ ns.x }}", "5", UNDEFINED),
    (NS + "{% macro f() %}{% set ns.x = ns.x + 5 %}{% endmacro %}{{ f() }}{{ ns.x }}", "5", "5"),
    (NS + "{% macro f(ns) %}{% set ns.x = 5 %}{% endmacro %}{{ f(ns) }}{{ ns.x }}", "5", "5"),
    ("{{ p.type }} of {{ p.items.type }}", "array of ", "array of string"),
    ("{{ p.type }} of {{ p['items'].type }}", "array of string", "array of string"),
]
source = "\n".join(template for template, *_ in cases)
run = subprocess.run(sys.argv[1:], input=source, capture_output=True, text=True, check=True)
by_minijinja = run.stdout.splitlines()
environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
p = {"type": "array", "items": {"type": "string"}}
ok = len(by_minijinja) == len(cases)
for (template, jinja2, minijinja), seen in zip(cases, by_minijinja):
    rendered = environment.from_string(template).render(p=p)
    print(f"{template}\n  jinja2 {rendered!r}, minijinja {seen!r}")
    ok &= rendered == jinja2 and seen == minijinja
sys.exit(None if ok else "changed")
PYTHON
"$work/venv/bin/python" "$work/look.py" "$work/target/debug/minijinja_set_scopes"
