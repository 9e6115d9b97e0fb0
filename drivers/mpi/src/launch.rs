//! Rank and world size of this process, as a launcher put them into the environment.

use std::fmt;

use crate::error::MpiError;

/// Programs that start a process on each rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Launcher {
    /// `mpirun` of Open MPI.
    OpenMpi,
    /// A launcher with MPICH's process management interface: `mpirun` of MPICH and its kin, or `srun --mpi=pmi2`.
    Pmi,
    /// `srun --mpi=pmix`.
    SrunPmix,
    /// `srun` without an interface that MPI libraries know, such as `srun --mpi=none`, which is often the default.
    Srun,
    /// `torchrun`, or another that sets RANK and WORLD_SIZE. It starts no MPI.
    Torchrun,
}

impl Launcher {
    /// The variable in which this launcher gives the number of ranks.
    pub(crate) fn size_variable(self) -> &'static str {
        match self {
            Self::OpenMpi => "OMPI_COMM_WORLD_SIZE",
            Self::Pmi => "PMI_SIZE",
            Self::Srun | Self::SrunPmix => "SLURM_STEP_NUM_TASKS",
            Self::Torchrun => "WORLD_SIZE",
        }
    }
}

impl fmt::Display for Launcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OpenMpi => "mpirun of Open MPI",
            Self::Pmi => "mpirun of MPICH or srun --mpi=pmi2",
            Self::SrunPmix => "srun --mpi=pmix",
            Self::Srun => "srun without --mpi=pmi2 or --mpi=pmix",
            Self::Torchrun => "torchrun",
        })
    }
}

/// A process among several that one launcher started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launched {
    /// This rank, from 0.
    pub rank: usize,
    /// Number of ranks, at least 2.
    pub world: usize,
    /// This rank among those of its machine, from 0, for the choice of a GPU; `rank` where the launcher does not say.
    pub local_rank: usize,
    /// The launcher.
    pub launcher: Launcher,
}

/// The rank that a launcher put into the environment; `None` for a process alone, be it without a launcher or in a
/// world of one. `variable` looks up a variable of the environment.
///
/// Where launchers are nested, the inner one counts: `torchrun` or `mpirun` before the `srun` that it runs under.
///
/// # Errors
/// A variable that is not a number, and a rank that is not below the number of ranks, by name.
pub fn launched(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Launched>, MpiError> {
    let number = |name: &str| match variable(name) {
        None => Ok(None),
        Some(text) => text.trim().parse::<usize>().map(Some).map_err(|_| {
            MpiError::new(format!(
                "{name} is {text:?} in the environment; it must be a whole number: correct or unset it"
            ))
        }),
    };
    let first = |names: &[&str]| names.iter().find_map(|name| number(name).transpose()).transpose();
    // The script of a batch job has a rank too, 0 of all tasks, though only `srun` starts the others. A step has a
    // small number where `srun` made it, and one near 2^32 where it is the script itself.
    let in_step = number("SLURM_STEP_ID")?.is_some_and(|step| step < 0xffff_0000);
    let slurm = |names: &'static [&'static str]| if in_step { names } else { &[] };
    let torch = (Launcher::Torchrun, &["RANK"][..], &["WORLD_SIZE"][..], &["LOCAL_RANK"][..]);
    let marked = variable("TORCHELASTIC_RUN_ID").is_some();
    let candidates = [
        marked.then_some(torch),
        Some((
            Launcher::OpenMpi,
            &["OMPI_COMM_WORLD_RANK"],
            &["OMPI_COMM_WORLD_SIZE"],
            &["OMPI_COMM_WORLD_LOCAL_RANK"],
        )),
        Some((Launcher::Pmi, &["PMI_RANK"], &["PMI_SIZE"], &["MPI_LOCALRANKID", "PMI_LOCAL_RANK"])),
        Some((
            if variable("PMIX_RANK").is_some() { Launcher::SrunPmix } else { Launcher::Srun },
            slurm(&["SLURM_PROCID"]),
            slurm(&["SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"]),
            slurm(&["SLURM_LOCALID"]),
        )),
        Some(torch),
    ];
    for (launcher, rank, size, local) in candidates.into_iter().flatten() {
        let (Some(rank), Some(world)) = (first(rank)?, first(size)?) else { continue };
        // `srun` with one task may start one process that starts others by itself.
        if matches!(launcher, Launcher::Srun | Launcher::SrunPmix) && world < 2 {
            continue;
        }
        if rank >= world {
            let name = launcher.size_variable();
            return Err(MpiError::new(format!(
                "rank {rank} of {launcher} is not below {world}, the number of ranks in {name}: correct the environment"
            )));
        }
        let local = match first(local)? {
            None => first(slurm(&["SLURM_LOCALID"]))?,
            local => local,
        };
        let launched = Launched { rank, world, local_rank: local.unwrap_or(rank), launcher };
        return Ok((world > 1).then_some(launched));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detect(variables: &[(&str, &str)]) -> Result<Option<(usize, usize, usize, Launcher)>, MpiError> {
        let lookup = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
        Ok(launched(lookup)?.map(|l| (l.rank, l.world, l.local_rank, l.launcher)))
    }

    const OPEN: &[(&str, &str)] =
        &[("OMPI_COMM_WORLD_RANK", "5"), ("OMPI_COMM_WORLD_SIZE", "8"), ("OMPI_COMM_WORLD_LOCAL_RANK", "1")];
    const HYDRA: &[(&str, &str)] = &[("PMI_RANK", "1"), ("PMI_SIZE", "2"), ("MPI_LOCALRANKID", "0")];
    const STEP: &[(&str, &str)] = &[
        ("SLURM_PROCID", "2"),
        ("SLURM_NTASKS", "16"),
        ("SLURM_STEP_NUM_TASKS", "3"),
        ("SLURM_LOCALID", "1"),
        ("SLURM_STEP_ID", "0"),
    ];
    const TORCH: &[(&str, &str)] = &[("RANK", "9"), ("WORLD_SIZE", "16"), ("LOCAL_RANK", "1")];

    #[test]
    fn launchers_are_recognised() {
        assert_eq!(detect(&[]).unwrap(), None);
        assert_eq!(detect(OPEN).unwrap(), Some((5, 8, 1, Launcher::OpenMpi)));
        assert_eq!(detect(HYDRA).unwrap(), Some((1, 2, 0, Launcher::Pmi)));
        assert_eq!(detect(STEP).unwrap(), Some((2, 3, 1, Launcher::Srun)));
        let pmix = [STEP, &[("PMIX_RANK", "2")]].concat();
        assert_eq!(detect(&pmix).unwrap(), Some((2, 3, 1, Launcher::SrunPmix)));
        assert_eq!(detect(TORCH).unwrap(), Some((9, 16, 1, Launcher::Torchrun)));
        let old = [("SLURM_PROCID", "2"), ("SLURM_NTASKS", "4"), ("SLURM_STEP_ID", "3")];
        assert_eq!(detect(&old).unwrap(), Some((2, 4, 2, Launcher::Srun)));
    }

    #[test]
    fn the_inner_launcher_counts() {
        assert_eq!(detect(&[STEP, OPEN].concat()).unwrap(), Some((5, 8, 1, Launcher::OpenMpi)));
        let pmi2 = &HYDRA[..2];
        assert_eq!(detect(&[STEP, pmi2].concat()).unwrap(), Some((1, 2, 1, Launcher::Pmi)), "srun's local rank");
        assert_eq!(detect(&[STEP, TORCH].concat()).unwrap(), Some((2, 3, 1, Launcher::Srun)), "a script's own RANK");
        let elastic = [STEP, HYDRA, TORCH, &[("TORCHELASTIC_RUN_ID", "none")]].concat();
        assert_eq!(detect(&elastic).unwrap(), Some((9, 16, 1, Launcher::Torchrun)));
    }

    #[test]
    fn one_process_alone_is_not_launched() {
        assert_eq!(detect(&[("PMI_RANK", "0"), ("PMI_SIZE", "1")]).unwrap(), None);
        assert_eq!(detect(&[("OMPI_COMM_WORLD_RANK", "0"), ("OMPI_COMM_WORLD_SIZE", "1")]).unwrap(), None);
        assert_eq!(detect(&[("RANK", "0"), ("WORLD_SIZE", "1")]).unwrap(), None);
        let one = [("SLURM_PROCID", "0"), ("SLURM_STEP_NUM_TASKS", "1"), ("SLURM_STEP_ID", "0")];
        assert_eq!(detect(&one).unwrap(), None);
        assert_eq!(detect(&[&one, TORCH].concat()).unwrap(), Some((9, 16, 1, Launcher::Torchrun)));
    }

    #[test]
    fn the_script_of_a_batch_job_is_no_rank() {
        let script = [("SLURM_PROCID", "0"), ("SLURM_NTASKS", "4"), ("SLURM_STEP_ID", "4294967291")];
        assert_eq!(detect(&script).unwrap(), None);
        assert_eq!(detect(&script[..2]).unwrap(), None);
        assert_eq!(detect(&[&script, HYDRA].concat()).unwrap(), Some((1, 2, 0, Launcher::Pmi)));
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let error = detect(&[("PMI_RANK", "one"), ("PMI_SIZE", "2")]).unwrap_err().to_string();
        assert!(error.contains("PMI_RANK") && error.contains("\"one\""), "{error}");
        let error = detect(&[("PMI_RANK", "2"), ("PMI_SIZE", "2")]).unwrap_err().to_string();
        assert!(error.contains("PMI_SIZE") && error.contains("not below 2"), "{error}");
        let error = detect(&[("OMPI_COMM_WORLD_RANK", "0"), ("OMPI_COMM_WORLD_SIZE", "0")]).unwrap_err().to_string();
        assert!(error.contains("OMPI_COMM_WORLD_SIZE"), "{error}");
        assert_eq!(detect(&[("PMI_RANK", "0")]).unwrap(), None, "a rank of nobody knows what");
    }
}
