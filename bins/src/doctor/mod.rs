//! Findings on a machine, and on whether a run fits it: `fathom doctor` and `train --check`.

mod folder;
mod limits;
mod machine;
mod training;

pub use machine::machine;
pub use training::{Request, short_of_memory, training};

use serde_json::{Value, json};

/// How a finding bears on a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is as it should be, or only said.
    Fine,
    /// A run will begin, and may meet it.
    Warning,
    /// A run will fail.
    Misfit,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Verdict::Fine => "ok",
            Verdict::Warning => "warning",
            Verdict::Misfit => "fails",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What it is about, in a word or two.
    pub subject: &'static str,
    /// How it bears on a run.
    pub verdict: Verdict,
    /// What was found.
    pub text: String,
    /// What to do about it, where there is something to do.
    pub remedy: Option<String>,
}

impl Finding {
    fn fine(subject: &'static str, text: impl Into<String>) -> Self {
        Self { subject, verdict: Verdict::Fine, text: text.into(), remedy: None }
    }

    fn warning(subject: &'static str, text: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { subject, verdict: Verdict::Warning, text: text.into(), remedy: Some(remedy.into()) }
    }

    fn misfit(subject: &'static str, text: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { subject, verdict: Verdict::Misfit, text: text.into(), remedy: Some(remedy.into()) }
    }

    /// An error of this crate, which says itself what to do.
    fn error(subject: &'static str, error: impl ToString) -> Self {
        Self { subject, verdict: Verdict::Misfit, text: error.to_string(), remedy: None }
    }
}

/// The subjects of the findings with which a run would fail.
pub fn misfits(findings: &[Finding]) -> Vec<&'static str> {
    let mut subjects: Vec<&str> = Vec::new();
    for finding in findings.iter().filter(|finding| finding.verdict == Verdict::Misfit) {
        if !subjects.contains(&finding.subject) {
            subjects.push(finding.subject);
        }
    }
    subjects
}

/// One line for each finding.
pub fn text(findings: &[Finding]) -> String {
    let line = |finding: &Finding| {
        let Finding { subject, verdict, text, remedy } = finding;
        // Messages of libraries have several lines.
        let text = text.split('\n').map(str::trim).collect::<Vec<_>>().join(" ");
        let remedy = remedy.as_ref().map_or(String::new(), |remedy| format!("; {remedy}"));
        format!("{:<8} {subject:<13} {text}{remedy}\n", verdict.word())
    };
    findings.iter().map(line).collect()
}

/// The findings as a JSON object: `fits`, and a list of `subject`, `verdict`, `text` and `remedy`.
pub fn json(findings: &[Finding]) -> Value {
    let one = |finding: &Finding| {
        let Finding { subject, verdict, text, remedy } = finding;
        json!({ "subject": subject, "verdict": verdict.word(), "text": text, "remedy": remedy })
    };
    json!({
        "fits": misfits(findings).is_empty(),
        "findings": findings.iter().map(one).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_a_line_and_an_object() {
        let findings = [
            Finding::fine("device", "cpu"),
            Finding::warning("memory", "little\n  of it", "close something"),
            Finding::misfit("disk", "full", "free some"),
            Finding::error("disk", "read-only"),
        ];
        assert_eq!(
            text(&findings),
            "ok       device        cpu\nwarning  memory        little of it; close something\n\
             fails    disk          full; free some\nfails    disk          read-only\n"
        );
        assert_eq!(misfits(&findings), ["disk"]);
        let json = json(&findings);
        assert_eq!((&json["fits"], &json["findings"][1]["remedy"]), (&false.into(), &"close something".into()));
        assert_eq!(json["findings"][0]["remedy"], Value::Null);
        assert_eq!(super::json(&findings[..2])["fits"], true);
    }
}
