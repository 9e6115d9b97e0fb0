//! The reference device's gradients are the gradients of its own forward kernels: central differences in f64.

use fathom_core::device::*;
use fathom_core::dtype::DType;
use fathom_core::routing::{GroupScore, RouteConfig, Score};
use fathom_core::tensor::Tensor;

type T = Tensor<Host>;

/// `n` numbers that look random: fractional parts of multiples of the golden ratio, from −1 to 1.
fn numbers(seed: usize, n: usize) -> Vec<f64> {
    (0..n).map(|i| 2.0 * ((i + 1 + 97 * seed) as f64 * 0.618_033_988_749_895).fract() - 1.0).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

struct Lab(Host);

impl Lab {
    fn new() -> Self {
        Self(Host::new())
    }
    fn put(&self, rows: usize, values: &[f64]) -> T {
        T::from_slice(&self.0, &[rows, values.len() / rows], DType::F64, values).expect("a host tensor")
    }
    fn index(&self, rows: usize, values: &[u32]) -> T {
        T::from_slice(&self.0, &[rows, values.len() / rows], DType::U32, values).expect("a host tensor")
    }
    fn zeros(&self, rows: usize, cols: usize) -> T {
        T::zeros(&self.0, &[rows, cols], DType::F64).expect("a host tensor")
    }
    fn get(&self, t: &T) -> Vec<f64> {
        t.download(&self.0).expect("a host tensor")
    }
}

/// Compares `gradient` with central differences of `f` at `x`.
fn check(what: &str, x: &[f64], gradient: &[f64], f: impl Fn(&[f64]) -> f64) {
    const STEP: f64 = 1e-5;
    let largest = gradient.iter().fold(1e-3f64, |m, g| m.max(g.abs()));
    assert!(gradient.iter().any(|g| g.abs() > 1e-6), "{what}: a gradient of zeros proves nothing");
    for i in 0..x.len() {
        let at = |d: f64| {
            let mut x = x.to_vec();
            x[i] += d;
            f(&x)
        };
        let slope = (at(STEP) - at(-STEP)) / (2.0 * STEP);
        assert!((slope - gradient[i]).abs() < 1e-7 * largest.max(1.0), "{what} [{i}]: {} but {slope}", gradient[i]);
    }
}

#[test]
fn rmsnorm() {
    const EPS: f64 = 1e-2;
    let lab = Lab::new();
    let (x, w, dy) = (numbers(0, 15), numbers(1, 5), numbers(2, 15));
    let forward = |x: &[f64], w: &[f64]| {
        let (x, w, mut y, mut rstd) = (lab.put(3, x), lab.put(1, w), lab.zeros(3, 5), lab.zeros(3, 1));
        let call = RmsNorm::new(x.view(), w.view(), EPS, y.view_mut(), rstd.view_mut());
        lab.0.rmsnorm(call.expect("fits")).expect("runs");
        (dot(&lab.get(&y), &dy), rstd)
    };
    let (tx, tw, rstd, tdy) = (lab.put(3, &x), lab.put(1, &w), forward(&x, &w).1, lab.put(3, &dy));
    let (mut dx, mut dw) = (lab.zeros(3, 5), lab.zeros(1, 5));
    let views = (tx.view(), tw.view(), rstd.view(), tdy.view());
    let call = RmsNormGrad::new(views.0, views.1, views.2, views.3, dx.view_mut(), Out::Add, dw.view_mut());
    lab.0.rmsnorm_grad(call.expect("fits")).expect("runs");
    check("dx", &x, &lab.get(&dx), |x| forward(x, &w).0);
    check("dw", &w, &lab.get(&dw), |w| forward(&x, w).0);
}

#[test]
fn rope_turned_back_is_the_transpose() {
    let lab = Lab::new();
    let (x, dy) = (numbers(0, 24), numbers(1, 24));
    let table: Vec<f64> = numbers(2, 10).iter().flat_map(|a| [(3.0 * a).cos(), (3.0 * a).sin()]).collect();
    let rotate = |x: &[f64], inverse| {
        let (mut x, table, positions) = (lab.put(2, x), lab.put(5, &table), lab.index(2, &[4, 1]));
        let call = Rope::new(x.view_mut(), 6, 1, table.view(), positions.view(), inverse);
        lab.0.rope(call.expect("fits")).expect("runs");
        lab.get(&x)
    };
    check("dx", &x, &rotate(&dy, true), |x| dot(&rotate(x, false), &dy));
}

#[test]
fn swiglu() {
    let lab = Lab::new();
    let (x, scale, dy) = (numbers(0, 24).iter().map(|v| 3.0 * v).collect::<Vec<_>>(), numbers(1, 3), numbers(2, 12));
    let forward = |x: &[f64], scale: &[f64]| {
        let (x, scale, mut y) = (lab.put(3, x), lab.put(3, scale), lab.zeros(3, 4));
        lab.0.swiglu(Swiglu::new(x.view(), Some(scale.view()), y.view_mut()).expect("fits")).expect("runs");
        lab.get(&y)
    };
    let (tx, ts, tdy) = (lab.put(3, &x), lab.put(3, &scale), lab.put(3, &dy));
    let (mut dx, mut ds, mut y) = (lab.zeros(3, 8), lab.zeros(3, 1), lab.zeros(3, 4));
    let results = (dx.view_mut(), Some(ds.view_mut()), y.view_mut());
    let call = SwigluGrad::new(tx.view(), Some(ts.view()), tdy.view(), results.0, results.1, results.2);
    lab.0.swiglu_grad(call.expect("fits")).expect("runs");
    assert_eq!(lab.get(&y), forward(&x, &scale), "the output again");
    check("d_gate_up", &x, &lab.get(&dx), |x| dot(&forward(x, &scale), &dy));
    check("dscale", &scale, &lab.get(&ds), |scale| dot(&forward(&x, scale), &dy));
}

#[test]
fn route_and_balance() {
    let lab = Lab::new();
    let (tokens, experts, top_k) = (6, 8, 3);
    let logits: Vec<f64> = numbers(0, tokens * experts).iter().map(|v| 2.0 * v).collect();
    let dw = numbers(2, tokens * top_k);
    for (score, normalize) in [(Score::Sigmoid, true), (Score::Softmax, false), (Score::Softmax, true)] {
        let config = RouteConfig {
            experts,
            top_k,
            groups: 4,
            top_groups: 2,
            score,
            group_score: GroupScore::TopTwo,
            normalize,
            scale: 2.5,
        };
        let run = |logits: &[f64]| {
            let (x, mut s, mut w) = (lab.put(tokens, logits), lab.zeros(tokens, experts), lab.zeros(tokens, top_k));
            let mut chosen = lab.index(tokens, &vec![0; tokens * top_k]);
            let call = Route::new(config, x.view(), None, s.view_mut(), chosen.view_mut(), w.view_mut());
            lab.0.route(call.expect("fits")).expect("runs");
            let (mut loss, mut ds) = (lab.zeros(1, 1), lab.zeros(tokens, experts));
            // Two sequences of three tokens.
            let call = Balance::new(s.view(), 3, top_k, 0.7, loss.view_mut(), ds.view_mut());
            lab.0.balance(call.expect("fits")).expect("runs");
            let total = dot(&lab.get(&w), &dw) + lab.get(&loss)[0];
            (total, s, chosen, ds)
        };
        let (_, s, chosen, ds) = run(&logits);
        let (tdw, mut dx) = (lab.put(tokens, &dw), lab.zeros(tokens, experts));
        let views = (s.view(), chosen.view(), tdw.view());
        let call = RouteGrad::new(config, views.0, views.1, views.2, Some(ds.view()), dx.view_mut());
        lab.0.route_grad(call.expect("fits")).expect("runs");
        check(&format!("{score:?} {normalize}"), &logits, &lab.get(&dx), |x| run(x).0);
    }
}

#[test]
fn attention() {
    let lab = Lab::new();
    let heads = Heads { heads: 2, nope: 2, rope: 2, value: 3, scale: 0.8, sequence: 4 };
    let (q, kv, k_pe) = (numbers(0, 8 * 8), numbers(1, 8 * 10), numbers(2, 8 * 2));
    let d_o = numbers(3, 8 * 6);
    let starts = lab.index(8, &[0, 0, 2, 2, 4, 9, 0, 5]);
    let forward = |q: &[f64], kv: &[f64], k_pe: &[f64]| {
        let (q, kv, k_pe) = (lab.put(8, q), lab.put(8, kv), lab.put(8, k_pe));
        let (mut o, mut lse) = (lab.zeros(8, 6), lab.zeros(8, 2));
        let results = (o.view_mut(), lse.view_mut());
        let call = Attention::new(heads, q.view(), kv.view(), k_pe.view(), starts.view(), results.0, results.1);
        lab.0.attention(call.expect("fits")).expect("runs");
        (o, lse)
    };
    let loss = |q: &[f64], kv: &[f64], k_pe: &[f64]| dot(&lab.get(&forward(q, kv, k_pe).0), &d_o);
    let (o, lse) = forward(&q, &kv, &k_pe);
    let (tq, tkv, tk_pe, td_o) = (lab.put(8, &q), lab.put(8, &kv), lab.put(8, &k_pe), lab.put(8, &d_o));
    let (mut dq, mut dkv, mut dk_pe) = (lab.zeros(8, 8), lab.zeros(8, 10), lab.zeros(8, 2));
    let call = AttentionGrad::new(
        heads,
        tq.view(),
        tkv.view(),
        tk_pe.view(),
        starts.view(),
        o.view(),
        lse.view(),
        td_o.view(),
        dq.view_mut(),
        dkv.view_mut(),
        dk_pe.view_mut(),
    );
    lab.0.attention_grad(call.expect("fits")).expect("runs");
    check("dq", &q, &lab.get(&dq), |q| loss(q, &kv, &k_pe));
    check("dkv", &kv, &lab.get(&dkv), |kv| loss(&q, kv, &k_pe));
    check("dk_pe", &k_pe, &lab.get(&dk_pe), |k_pe| loss(&q, &kv, k_pe));
}

#[test]
fn cross_entropy() {
    let lab = Lab::new();
    let logits: Vec<f64> = numbers(0, 20).iter().map(|v| 4.0 * v).collect();
    let targets = lab.index(4, &[2, IGNORE, 0, 4]);
    let run = |logits: &[f64], gradient| {
        let (mut x, mut nll) = (lab.put(4, logits), lab.zeros(4, 1));
        let call = CrossEntropy::new(x.view_mut(), targets.view(), gradient, nll.view_mut());
        lab.0.cross_entropy(call.expect("fits")).expect("runs");
        (lab.get(&x), lab.get(&nll).iter().sum::<f64>())
    };
    assert_eq!(run(&logits, None).0, logits, "no gradient was asked for");
    check("dlogits", &logits, &run(&logits, Some(0.5)).0, |x| 0.5 * run(x, None).1);
}
