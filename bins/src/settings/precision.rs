//! `train.precision` and its switches, `precision.*`.

use super::SettingsError;
use super::reader::Reader;
use fathom_core::precision::{Precision, Products};

/// A switch of the FP8 recipe.
type Switch = (&'static str, fn(&mut Precision) -> &mut bool);

/// The switches that only an FP8 policy has.
const RECIPE: [Switch; 7] = [
    ("precision.power_of_two", |p| &mut p.recipe.power_of_two),
    ("precision.power_of_two_attention_output", |p| &mut p.recipe.power_of_two_attention_output),
    ("precision.power_of_two_dispatch", |p| &mut p.recipe.power_of_two_dispatch),
    ("precision.power_of_two_down_gradient", |p| &mut p.recipe.power_of_two_down_gradient),
    ("precision.fp8_dispatch", |p| &mut p.recipe.dispatch),
    ("precision.e5m6_attention_output", |p| &mut p.recipe.attention_output_e5m6),
    ("precision.fp8_swiglu_input", |p| &mut p.recipe.swiglu_input),
];
/// The switches that every policy has.
const ALL: [Switch; 3] = [
    ("precision.bf16_moments", |p| &mut p.bf16_moments),
    ("precision.recompute_norms", |p| &mut p.recompute_norms),
    ("precision.recompute_up_projections", |p| &mut p.recompute_up_projections),
];

/// The policy. Switches that are not given are as the policy has them.
pub(super) fn read(reader: &mut Reader<'_>) -> Result<Precision, SettingsError> {
    let mut precision = match reader.word("train.precision").as_str() {
        "bf16" => Precision::BF16,
        "fp8" => Precision::FP8,
        _ => Precision::F32,
    };
    for (key, field) in ALL {
        let field = field(&mut precision);
        *field = reader.flag_or(key, *field);
    }
    for (key, field) in RECIPE {
        if precision.products == Products::Fp8 {
            let field = field(&mut precision);
            *field = reader.flag_or(key, *field);
        } else if reader.source.get(key).is_some() {
            let problem = format!("is for train.precision = \"fp8\" only, which is {:?} here", precision.name());
            return Err(reader.reject(key, problem));
        }
    }
    Ok(precision)
}
