//! `Ladder`, the lowest rung: a device of primitives alone, on which every fused kernel is its default body.

use fathom_core::device::{Capabilities, Device, Kernels, MemoryUse, Primitives};

/// A device of which only the primitives are used: every fused kernel is its default body.
///
/// The suite on `Ladder(device)` shows whether primitives suffice to train a model before any kernel is overridden.
#[derive(Clone, Debug)]
pub struct Ladder<D>(pub D);

impl<D: Device> Device for Ladder<D> {
    type Error = D::Error;
    type Buffer = D::Buffer;

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    fn alloc(&self, bytes: usize) -> Result<D::Buffer, D::Error> {
        self.0.alloc(bytes)
    }

    fn upload(&self, buffer: &mut D::Buffer, offset: usize, bytes: &[u8]) -> Result<(), D::Error> {
        self.0.upload(buffer, offset, bytes)
    }

    fn download(&self, buffer: &D::Buffer, offset: usize, bytes: &mut [u8]) -> Result<(), D::Error> {
        self.0.download(buffer, offset, bytes)
    }

    fn flush(&self) -> Result<(), D::Error> {
        self.0.flush()
    }

    fn memory(&self) -> MemoryUse {
        self.0.memory()
    }
}

macro_rules! forward {
    (primitive { $($p:ident: $P:ident,)* } fused { $($f:ident: $F:ident,)* }) => {
        impl<D: Primitives> Primitives for Ladder<D> {
            $(
                fn $p(&self, call: fathom_core::device::$P<'_, D::Buffer>) -> Result<(), D::Error> {
                    self.0.$p(call)
                }
            )*
        }
    };
}
fathom_core::for_each_kernel!(forward);

impl<D: Primitives> Kernels for Ladder<D> {}
