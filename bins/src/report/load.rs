//! The load of experts as a heat map with its numbers, for the pages of runs and of tasks.

use fathom_core::train::ExpertLoad;

use super::page::{Figure, table};
use super::plot;
use crate::error::Result;

/// A heat map of the tokens of each expert over the layer's mean, by the layer's number. `of` says what tokens;
/// [`scale`] says what its colours mean.
///
/// # Errors
/// A drawing that fails.
pub fn figure(title: &str, of: &str, layers: &[(usize, Vec<f32>)]) -> Result<Figure> {
    let over_mean = |loads: &Vec<f32>| -> Vec<f64> {
        let mean = loads.iter().map(|&x| f64::from(x)).sum::<f64>() / loads.len().max(1) as f64;
        loads.iter().map(|&x| if mean > 0.0 { f64::from(x) / mean } else { 0.0 }).collect()
    };
    let rows: Vec<(usize, Vec<f64>)> = layers.iter().map(|(layer, loads)| (*layer, over_mean(loads))).collect();
    let alone = |loads: &Vec<f32>| ExpertLoad { layers: vec![loads.clone()] };
    let all = ExpertLoad { layers: layers.iter().map(|(_, loads)| loads.clone()).collect() };
    let worst = layers.iter().max_by(|a, b| alone(&a.1).max_violation().total_cmp(&alone(&b.1).max_violation()));
    let worst = worst.map_or(String::new(), |(layer, _)| format!(" in layer {layer}"));
    let note = format!(
        "{of}; largest MaxVio {:.2}{worst}; {} without a token",
        all.max_violation(),
        match all.dead() {
            0 => "no expert".into(),
            1 => "1 expert".into(),
            n => format!("{n} experts"),
        }
    );
    let name = format!("{title}, expert load by layer and expert: {note}");
    let head = ["layer", "MaxVio", "experts without a token", "busiest expert", "its load over the mean"];
    let summary = layers.iter().zip(&rows).map(|((layer, loads), (_, shares))| {
        let busiest = shares.iter().enumerate().fold(0, |best, (i, x)| if *x > shares[best] { i } else { best });
        let (load, share) = (alone(loads), shares.get(busiest).copied().unwrap_or(0.0));
        vec![
            layer.to_string(),
            format!("{:.3}", load.max_violation()),
            load.dead().to_string(),
            busiest.to_string(),
            format!("{share:.3}"),
        ]
    });
    let experts = rows.iter().map(|(_, shares)| shares.len()).max().unwrap_or(0);
    let columns: Vec<String> = std::iter::once("layer".into()).chain((0..experts).map(|e| e.to_string())).collect();
    let cells = rows.iter().map(|(layer, shares)| {
        let shares = shares.iter().map(|x| format!("{:.0}", x * 100.0));
        std::iter::once(layer.to_string()).chain(shares).collect::<Vec<_>>()
    });
    let numbers = format!(
        "{}<p>Load of each expert in percent of the layer's mean:</p>{}",
        table(&head.map(String::from), &summary.collect::<Vec<_>>(), 0),
        table(&columns, &cells.collect::<Vec<_>>(), 0)
    );
    let drawing = plot::heat(&name, &rows)?;
    Ok(Figure { title: title.into(), note, drawing, numbers, wide: experts > 8, ..Figure::default() })
}

/// The colours of heat maps with their loads, as HTML.
pub fn scale() -> String {
    let entry =
        |(style, text): (String, String)| format!("<span><i class=\"cell\" style=\"{style}\"></i>{text}</span>");
    let shade = |share: f64| {
        let strength = 0.06 + 0.94 * (share / plot::FULL);
        (format!("background: rgb(var(--heat) / {strength:.2})"), format!("{:.0} %", share * 100.0))
    };
    let mut entries = vec![("border: 1px solid var(--c6)".to_owned(), "no token".to_owned())];
    entries.extend([0.5, 1.0, 1.5, 2.0].map(shade));
    let (style, text) = shade(plot::FULL);
    entries.push((style, format!("{text} of the mean, and above")));
    format!("<div class=\"legend\">{}</div>", entries.into_iter().map(entry).collect::<String>())
}
