//! Benchmark tasks of a run.

use fathom_core::device::Kernels;
use fathom_core::model::Model;
use fathom_dataprep::Tokenizer;

use super::data;
use super::metrics::TaskScores;
use crate::codec::{Codec, Prompts};
use crate::error::{Error, Result};
use crate::hf;
use crate::settings::Settings;
use crate::tasks::data::Places;
use crate::tasks::results::Reported;
use crate::tasks::suite::Cost;
use crate::tasks::{Options, Suite, Wording};

/// The tasks that `eval.tasks` names, ready to be measured.
#[derive(Debug)]
pub(super) struct Benchmarks {
    suite: Suite,
    tokenizer: Tokenizer,
    prompts: Prompts,
    context: usize,
}

impl Benchmarks {
    /// Reads and checks everything that the tasks need; `None` where there are none.
    pub fn open(settings: &Settings, tokenizer: Option<&Tokenizer>) -> Result<Option<Self>> {
        if settings.eval.tasks.is_empty() {
            return Ok(None);
        }
        let Some(tokenizer) = tokenizer else {
            let problem = "asks for text to be measured, but the data has no tokenizer.json: leave it out";
            return Err(settings.reject("eval.tasks", problem).into());
        };
        // As the checkpoints of the run will say it.
        let ends = settings.model.eos_token_id.into_iter().collect();
        let prompts = Prompts { template: hf::read_template(data::folder(settings)?)?, ends };
        let (tokenizer, context) = (tokenizer.clone(), settings.model.max_position_embeddings);
        let suite = Suite::new(&Codec::new(&tokenizer, &prompts, context), &options(settings)?)?;
        if !suite.missing().is_empty() {
            eprintln!("eval.tasks: not measured, since there are no files: {}", suite.missing().join(", "));
        }
        Ok(Some(Self { suite, tokenizer, prompts, context }))
    }

    /// Measures a model. Nothing of it changes. `None` where `go_on` was false before the end.
    pub fn measure<D: Kernels>(
        &self,
        model: &Model<D>,
        go_on: &dyn Fn() -> bool,
        progress: impl FnMut(u64, u64),
    ) -> Result<Option<TaskScores>> {
        let codec = Codec::new(&self.tokenizer, &self.prompts, self.context);
        let Some((tasks, groups)) = self.suite.measure((&codec, model), None, go_on, progress)? else {
            return Ok(None);
        };
        let tasks = tasks.iter().map(|task| (&task.name, &task.metrics));
        let all = tasks.chain(groups.iter().map(|group| (&group.name, &group.metrics)));
        Ok(Some(all.map(|(name, metrics)| (name.clone(), scores(metrics).collect())).collect()))
    }
}

/// Scores and standard errors under the harness's keys; those that are finite.
fn scores(metrics: &[Reported]) -> impl Iterator<Item = (String, f64)> + '_ {
    let pair = |one: &Reported| {
        let Reported { metric, filter, value, stderr, .. } = one;
        let stderr = stderr.map(|stderr| (format!("{metric}_stderr,{filter}"), stderr));
        std::iter::once((format!("{metric},{filter}"), *value)).chain(stderr)
    };
    metrics.iter().flat_map(pair).filter(|(_, value)| value.is_finite())
}

fn options(settings: &Settings) -> Result<Options> {
    let eval = &settings.eval;
    Ok(Options {
        tasks: eval.tasks.clone(),
        places: Places::new(&eval.task_data, &eval.fewshot_data, Wording::Settings)?,
        shots: eval.num_fewshot,
        limit: eval.limit,
        unsafe_code: eval.confirm_run_unsafe_code,
        ..Options::default()
    })
}

/// What measuring the tasks of a run once costs, and how often it is done; `None` where the settings name no tasks.
///
/// # Errors
/// Those that the run would begin with: tasks, files and items, and data without a tokenizer.
pub fn task_cost(settings: &mut Settings) -> Result<Option<(Cost, u64)>> {
    if settings.eval.tasks.is_empty() {
        return Ok(None);
    }
    let sources = data::open(settings)?;
    let tokenizer = data::fit_vocabulary(settings, &sources[0].data)?;
    let benchmarks = Benchmarks::open(settings, tokenizer.as_ref())?;
    let benchmarks = benchmarks.ok_or_else(|| Error::Run("no benchmark tasks".into()))?;
    let (_, steps) = settings.budget()?;
    let times = match settings.eval.every_steps {
        0 => 1,
        every => steps.div_ceil(every),
    };
    Ok(Some((benchmarks.suite.cost(&settings.model), times)))
}
