//! Products of few rows with weights as they are stored, against the reference device.

mod common;

#[test]
fn products_of_few_rows() {
    common::suite_with_f16(&[fathom_conformance::gemv, fathom_conformance::grouped_gemv]);
}
