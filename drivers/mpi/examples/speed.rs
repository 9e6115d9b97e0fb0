//! Times the collectives over MPI on the CPU's memory.
//!
//! ```sh
//! cargo build --release -p fathom-mpi --examples
//! mpirun -n 2 target/release/examples/speed      # 16 MB a rank; or another number of MB
//! ```
//!
//! The rate is bytes that cross from one rank to another, for each rank, over time.

use std::time::Instant;

use fathom_core::comm::{AllGather, AllToAll, Comm};
use fathom_core::dtype::DType;
use fathom_core::tensor::Tensor;
use fathom_cpu::Cpu;
use fathom_mpi::{Mpi, launched};

const ROUNDS: usize = 15;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let Some(launched) = launched(|name| std::env::var(name).ok())? else {
        return Err("start it with mpirun".into());
    };
    let words: Vec<String> = std::env::args().skip(1).collect();
    let megabytes: usize = words.first().map_or(Ok(16), |n| n.parse())?;
    let mut mpi = Mpi::start(&launched)?;
    if let Some(piece) = words.get(1) {
        mpi = mpi.with_piece(piece.parse()?);
    }
    let device = Cpu::with_threads(1);
    let comm: &dyn Comm<Cpu> = &mpi;
    let n = comm.world();
    let each = megabytes * 1_000_000 / 4 / n;
    let pieces = vec![each; n];
    let from = Tensor::<Cpu>::from_slice(&device, &[each * n], DType::F32, &vec![1f32; each * n])?;
    let mut to = Tensor::<Cpu>::from_slice(&device, &[each * n], DType::F32, &vec![2f32; each * n])?;
    let mut times = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        comm.tell(&[0])?;
        let start = Instant::now();
        comm.all_to_all(&device, AllToAll::new(from.view(), &pieces, to.view_mut(), &pieces)?)?;
        comm.tell(&[0])?;
        times[0].push(start.elapsed().as_secs_f64());
        let start = Instant::now();
        comm.all_gather(&device, AllGather::new(to.view_mut(), &pieces)?)?;
        comm.tell(&[0])?;
        times[1].push(start.elapsed().as_secs_f64());
        let start = Instant::now();
        comm.tell(&[0])?;
        times[2].push(start.elapsed().as_secs_f64());
    }
    if comm.rank() == 0 {
        println!("{n} ranks, {}", mpi.library());
        let crossing = (each * 4 * (n - 1)) as f64;
        for (name, times) in ["all_to_all", "all_gather", "tell"].iter().zip(&mut times) {
            times.sort_by(f64::total_cmp);
            let (best, median) = (times[0] * 1e3, times[ROUNDS / 2] * 1e3);
            let rate = if *name == "tell" { String::new() } else { format!(", {:.2} GB/s", crossing / median / 1e6) };
            println!("{name:10} {megabytes} MB: median {median:.3} ms, best {best:.3} ms{rate}");
        }
    }
    Mpi::may_end();
    Ok(())
}
