//! The tokens that a tokenizer's post-processor puts around a text.

use super::error::HfError;
use super::folder::read_optional;
use fathom_dataprep::tokenizer::TOKENIZER;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

/// Tokens that a tokenizer puts around a single text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Template {
    /// Tokens before the text.
    pub before: Vec<u32>,
    /// Tokens after it.
    pub after: Vec<u32>,
}

/// A post-processor of `tokenizer.json`, of the kinds that add tokens.
#[derive(Deserialize)]
#[serde(tag = "type")]
enum PostProcessor {
    Sequence {
        processors: Vec<PostProcessor>,
    },
    TemplateProcessing {
        single: Vec<Piece>,
        #[serde(default)]
        special_tokens: BTreeMap<String, SpecialToken>,
    },
    BertProcessing {
        cls: (String, u32),
        sep: (String, u32),
    },
    RobertaProcessing {
        cls: (String, u32),
        sep: (String, u32),
    },
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
enum Piece {
    SpecialToken { id: String },
    Sequence {},
}

#[derive(Deserialize)]
struct SpecialToken {
    ids: Vec<u32>,
}

impl PostProcessor {
    /// Adds the tokens that this processor puts around a text, or returns the name of a token that has no ids.
    fn apply(&self, template: &mut Template) -> Result<(), String> {
        match self {
            PostProcessor::Sequence { processors } => processors.iter().try_for_each(|each| each.apply(template)),
            PostProcessor::TemplateProcessing { single, special_tokens } => {
                let (mut before, mut after, mut seen) = (Vec::new(), Vec::new(), false);
                for piece in single {
                    match piece {
                        Piece::Sequence {} => seen = true,
                        Piece::SpecialToken { id } => {
                            let ids = &special_tokens.get(id).ok_or_else(|| id.clone())?.ids;
                            (if seen { &mut after } else { &mut before }).extend(ids);
                        }
                    }
                }
                template.wrap(before, after);
                Ok(())
            }
            PostProcessor::BertProcessing { cls, sep } | PostProcessor::RobertaProcessing { cls, sep } => {
                template.wrap(vec![cls.1], vec![sep.1]);
                Ok(())
            }
            PostProcessor::Other => Ok(()),
        }
    }
}

impl Template {
    fn wrap(&mut self, before: Vec<u32>, after: Vec<u32>) {
        self.before.splice(0..0, before);
        self.after.extend(after);
    }
}

/// The tokens that the tokenizer beside a model puts around a prompt, as its post-processor says; none where there is
/// no `tokenizer.json`.
///
/// # Errors
/// [`HfError::Io`]; [`HfError::Json`] for a template that names a token without ids.
pub fn read_template(folder: &Path) -> Result<Template, HfError> {
    #[derive(Deserialize)]
    struct File {
        #[serde(default)]
        post_processor: Option<PostProcessor>,
    }
    let path = folder.join(TOKENIZER);
    let mut template = Template::default();
    if let Some(file) = read_optional::<File>(&path)?
        && let Some(processor) = file.post_processor
    {
        processor.apply(&mut template).map_err(|token| {
            let problem = format!("post_processor: special_tokens has no ids of `{token}`");
            HfError::Json { path: path.clone(), problem }
        })?;
    }
    Ok(template)
}
