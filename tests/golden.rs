//! Parity with transformers: logits, loss, gradients and training trajectories of small random models.

use fathom_core::device::Host;
use fathom_tests::golden::{Golden, check_case, check_trajectory};

macro_rules! cases {
    ($($module:ident: $device:expr;)*) => {$(
        mod $module {
            use super::*;

            #[test]
            fn v3_yarn() {
                let golden = Golden::load("v3_yarn");
                check_case(&$device, "v3_yarn", &golden);
                check_trajectory(&$device, "v3_yarn", &golden);
            }

            #[test]
            fn v3_no_q_lora() {
                let golden = Golden::load("v3_no_q_lora");
                check_case(&$device, "v3_no_q_lora", &golden);
                check_trajectory(&$device, "v3_no_q_lora", &golden);
            }

            #[test]
            fn v3_tied_bias() {
                let golden = Golden::load("v3_tied_bias");
                check_case(&$device, "v3_tied_bias", &golden);
                check_trajectory(&$device, "v3_tied_bias", &golden);
            }

            #[test]
            fn v2_lite() {
                let golden = Golden::load("v2_lite");
                check_case(&$device, "v2_lite", &golden);
                check_trajectory(&$device, "v2_lite", &golden);
            }

            #[test]
            fn v3_mtp() {
                check_case(&$device, "v3_mtp", &Golden::load("v3_mtp"));
            }
        }
    )*};
}

cases! {
    reference: Host::new();
    cpu: fathom_cpu::Cpu::with_threads(2);
}
