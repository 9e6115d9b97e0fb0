//! Default bodies of the fused kernels, written in primitives.
use super::*;
use super::kernels::for_each_kernel;
macro_rules! temporary {
    (primitive { $($p:ident: $P:ident,)* } fused { $($f:ident: $F:ident,)* }) => {
        $(pub(super) fn $f<D: Kernels + ?Sized>(_device: &D, _call: $F<'_, D::Buffer>) -> Result<(), D::Error> { Err(D::Error::unsupported(stringify!($f))) })*
    };
}
for_each_kernel!(temporary);
