use super::*;
use std::println;
#[test]
fn show() {
    for (n, p) in PRESETS {
        let c = p();
        c.validate().unwrap();
        let k = ParameterCount::of(&c);
        println!(
            "{n} {} {} {} act {} {:?}",
            k.parameters(),
            k.parameters_with_mtp(),
            k.parameters_in_training(),
            k.active_parameters(),
            KvCache::of(&c)
        );
        println!("{:?}", KvCache::of(&c).published_comparison());
        println!("{} {}", c.softmax_scale(), c.flops_per_token(512));
    }
}
