//! Dense products by cuBLASLt on one GPU: the library, loaded on first use, and its workspace.

use fathom_core::error::ErrorKind;

use super::commands::Product;
use super::driver::{self, Context, Stream};
use crate::cublaslt::{Lt, Operands, Shape, WORKSPACE};
use crate::error::CudaError;

/// State of the library.
enum Library {
    /// Turned off by the options, or closed.
    Off,
    /// Not searched for yet.
    Unknown,
    /// Not found.
    Missing(CudaError),
    /// Loaded.
    Ready(Box<Lt>),
}

/// Dense products by the vendor's library.
pub(super) struct Products {
    library: Library,
    /// Device address of the library's workspace, or 0.
    workspace: u64,
    /// Whether tensor cores multiply FP8 codes with scales per 128 elements: compute capability 9.0 only.
    codes: bool,
}

impl Products {
    pub(super) fn new(enabled: bool, codes: bool) -> Self {
        Self { library: if enabled { Library::Unknown } else { Library::Off }, workspace: 0, codes }
    }

    /// The library, loaded on the first call. The context must be current.
    pub(super) fn lt(&mut self) -> Result<&mut Lt, CudaError> {
        if matches!(self.library, Library::Unknown) {
            let workspace = &mut self.workspace;
            let found = Lt::new(|| {
                *workspace = driver::alloc(WORKSPACE)?;
                Ok(*workspace)
            });
            self.library = found.map_or_else(Library::Missing, |lt| Library::Ready(Box::new(lt)));
        }
        match &mut self.library {
            Library::Ready(lt) => Ok(lt),
            Library::Missing(error) => Err(error.clone()),
            Library::Off | Library::Unknown => Err(CudaError::new(ErrorKind::Unsupported, "cuBLASLt is turned off")),
        }
    }

    /// The index of the plan for a product of this shape; `None` if the library is absent or has no such product.
    pub(super) fn plan(&mut self, context: &Context, shape: &Shape) -> Result<Option<u32>, CudaError> {
        match &self.library {
            Library::Off | Library::Missing(_) => return Ok(None),
            Library::Ready(lt) => {
                if let Some(known) = lt.known(shape) {
                    return Ok(known);
                }
            }
            Library::Unknown => {}
        }
        context.bind()?;
        let codes = self.codes;
        // Without the library, the driver's own kernels compute the product.
        let Ok(lt) = self.lt() else { return Ok(None) };
        if shape.factors.are_codes() && !(codes && lt.has_codes()) { Ok(None) } else { lt.plan(shape) }
    }

    /// Issues a product on a stream. The context must be current.
    ///
    /// # Safety
    /// The operands must lie in device memory, in the shape of the product's plan and with rows aligned to 16 bytes,
    /// and all products must be issued on one stream, which orders their use of the workspace.
    pub(super) unsafe fn issue(&self, product: &Product, stream: &Stream) -> Result<(), CudaError> {
        let Library::Ready(lt) = &self.library else {
            return Err(CudaError::new(ErrorKind::Other, "a product was queued without cuBLASLt"));
        };
        let Product { plan, a, b, c, scales, alpha, beta } = *product;
        let (alpha, beta) = (f32::from_bits(alpha), f32::from_bits(beta));
        // SAFETY: as promised by the caller.
        unsafe { lt.run(plan, &Operands { a, b, c, scales, alpha, beta }, stream.raw().cast()) }
    }

    /// Closes the library and frees its workspace. The context must be current, and no product may be running.
    pub(super) fn close(&mut self) {
        self.library = Library::Off;
        if self.workspace != 0 {
            driver::free(self.workspace);
            self.workspace = 0;
        }
    }
}
