//! Tests of sampling parameters and samplers.

use super::*;

fn counts(sampling: &Sampling, logits: &[f32], draws: usize) -> Vec<u32> {
    let mut counts = vec![0; logits.len()];
    for i in 0..draws {
        counts[sampling.choose(&History::default(), &mut logits.to_vec(), i) as usize] += 1;
    }
    counts
}

#[test]
fn greedy_takes_the_first_of_the_largest() {
    let sampling = Sampling { temperature: 0.0, top_k: 3, min_p: 0.5, ..Sampling::default() };
    assert_eq!(sampling.choose(&History::default(), &mut [0.0, 3.0, -1.0, 3.0], 0), 1);
}

#[test]
fn frequencies_follow_the_probabilities() {
    let sampling = Sampling { seed: 3, ..Sampling::default() };
    let counts = counts(&sampling, &[0.0, (2.0f32).ln(), (5.0f32).ln()], 8000);
    for (count, want) in counts.iter().zip([1000.0, 2000.0, 5000.0]) {
        assert!((f64::from(*count) - want).abs() < 4.0 * f64::sqrt(want), "{counts:?}");
    }
}

#[test]
fn filters_leave_the_tail_out() {
    let logits = [0.0, 1.0, 2.0, 3.0];
    let top_k = counts(&Sampling { top_k: 2, ..Sampling::default() }, &logits, 500);
    assert_eq!((top_k[0], top_k[1]), (0, 0));
    assert!(top_k[2] > 0 && top_k[3] > 0);
    let top_p = counts(&Sampling { top_p: 0.6, ..Sampling::default() }, &logits, 500);
    assert_eq!(top_p, [0, 0, 0, 500], "the best token alone has probability 0.64");
    let min_p = counts(&Sampling { min_p: 0.3, ..Sampling::default() }, &logits, 500);
    assert_eq!((min_p[0], min_p[1]), (0, 0));
    assert!(min_p[2] > 0, "exp(-1) is above 0.3");
}

#[test]
fn the_same_seed_gives_the_same_tokens_and_another_request_others() {
    let logits: Vec<f32> = (0..50).map(|i| (i as f32).sin()).collect();
    let draw = |seed, request| -> Vec<u32> {
        let sampling = Sampling { seed, request, ..Sampling::default() };
        (0..20).map(|i| sampling.choose(&History::default(), &mut logits.clone(), i)).collect()
    };
    assert_eq!(draw(1, 0), draw(1, 0));
    assert_ne!(draw(1, 0), draw(2, 0));
    assert_ne!(draw(1, 0), draw(1, 1));
}

#[test]
fn penalties_count_prompt_and_output_by_their_definitions() {
    let mut history = History::new(&[0, 1]);
    history.push(1);
    history.push(1);
    history.push(2);
    let sampling = Sampling {
        repetition_penalty: 2.0,
        presence_penalty: 0.5,
        frequency_penalty: 0.25,
        logit_bias: vec![(3, 4.0)],
        ..Sampling::default()
    };
    let mut logits = [4.0, 4.0, -4.0, 0.0];
    sampling.penalize(&history, &mut logits);
    assert_eq!(logits, [2.0, 1.0, -8.75, 4.0], "of the prompt alone, of both, of the output alone, biased");

    history.pop(2);
    history.pop(1);
    let mut logits = [4.0, 4.0, -4.0, 0.0];
    sampling.penalize(&history, &mut logits);
    assert_eq!(logits, [2.0, 1.25, -4.0, 4.0], "tokens that were taken back do not count");
    assert_eq!(history, {
        let mut expected = History::new(&[0, 1]);
        expected.push(1);
        expected
    });
}

#[test]
fn nothing_ends_the_text_too_early() {
    use crate::infer::speculate;

    let logits = [9.0, 8.0, 1.0, 0.0];
    for temperature in [0.0, 1.0, 1e300] {
        for (top_k, top_p) in [(0, 1.0), (1, 1.0), (3, 0.9)] {
            let sampling = Sampling { min_new_tokens: 2, temperature, top_k, top_p, ..Sampling::default() };
            let mut history = History::new(&[3, 3]).ended_by([0, 1, 0]);
            for position in 0..200 {
                let token = sampling.choose(&history, &mut logits.clone(), position);
                assert!(token >= 2, "{sampling:?}");
                // Drafts, and what becomes of them.
                let drafted = speculate::draft(&sampling, &history, &mut logits.clone(), position);
                let wrong = speculate::Drafted { token: 0, distribution: Some(Distribution::one_hot(0)) };
                for draft in [drafted, wrong] {
                    let (token, right) = speculate::verify(&sampling, &history, &mut logits.clone(), &draft, position);
                    assert!(token >= 2 && right == (draft.token >= 2), "{sampling:?} {draft:?}");
                }
            }
            history.push(2);
            assert!(sampling.choose(&history, &mut logits.clone(), 1) >= 2, "one token is not enough");
            history.push(2);
            let late: Vec<u32> = (0..200).map(|i| sampling.choose(&history, &mut logits.clone(), i)).collect();
            assert!(late.contains(&0), "{sampling:?}");
            history.pop(2);
            assert!(sampling.choose(&history, &mut logits.clone(), 1) >= 2, "a token that was taken back");
            // Where nothing but ends is left, the text ends.
            let all = History::new(&[]).ended_by(0..4);
            assert!(sampling.choose(&all, &mut logits.clone(), 0) < 4);
            let mut forbidden = [1.0, 2.0, f32::NEG_INFINITY, f32::NEG_INFINITY];
            assert!(sampling.choose(&History::new(&[]).ended_by([0, 1]), &mut forbidden, 0) < 2);
        }
    }
}

#[test]
fn extreme_temperatures_and_logits_stay_finite() {
    for temperature in [1e-300, 1e-30, 1e-3, 1e3, 1e300] {
        let sampling = Sampling { temperature, ..Sampling::default() };
        let distribution = sampling.distribution(&History::default(), &mut [3e38, -3e38, 1e38]);
        let sum: f64 = distribution.probabilities().map(|(_, p)| p).sum();
        assert!((sum - 1.0).abs() < 1e-12, "{temperature}: {distribution:?}");
        if temperature <= 1.0 {
            assert_eq!(distribution.draw(0.999_999), 0);
        }
    }
}

#[test]
fn nonsense_is_refused_by_name() {
    let default = Sampling::default;
    for (sampling, name) in [
        (Sampling { temperature: -1.0, ..default() }, "--temperature"),
        (Sampling { temperature: f64::NAN, ..default() }, "--temperature"),
        (Sampling { top_p: 0.0, ..default() }, "--top-p"),
        (Sampling { top_p: 1.5, ..default() }, "--top-p"),
        (Sampling { min_p: -0.1, ..default() }, "--min-p"),
        (Sampling { repetition_penalty: 0.0, ..default() }, "--repetition-penalty"),
        (Sampling { presence_penalty: 2.5, ..default() }, "--presence-penalty"),
        (Sampling { frequency_penalty: f64::NAN, ..default() }, "--frequency-penalty"),
        (Sampling { logit_bias: vec![(10, 1.0)], ..default() }, "--logit-bias"),
        (Sampling { logprobs: Some(5000), ..default() }, "--logprobs"),
        (Sampling { stop: vec![String::new()], ..default() }, "--stop"),
        (Sampling { min_new_tokens: 200, ..default() }, "--min-new-tokens"),
    ] {
        let error = sampling.validate(10).unwrap_err();
        assert!(error.as_option().starts_with(name), "{error}");
        assert_eq!(crate::error::Error::from(error).exit_code(), 2);
    }
    assert_eq!(default().validate(10), Ok(()));
}
