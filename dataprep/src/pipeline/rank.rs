//! Rank and world size of this process, among several that prepare one corpus.

use crate::error::{Error, Result};

/// Rank of a process among `world` that prepare the same corpus in the same folder. Ranks decide who does what, never
/// what comes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rank {
    index: usize,
    world: usize,
}

impl Default for Rank {
    fn default() -> Self {
        Self { index: 0, world: 1 }
    }
}

impl Rank {
    /// The rank `index`, from 0, of `world`.
    ///
    /// # Errors
    /// [`Error::Config`] when `index` is not below `world`.
    pub fn new(index: usize, world: usize) -> Result<Self> {
        if index < world {
            return Ok(Self { index, world });
        }
        Err(Error::Config { field: "--rank", what: format!("{index}; it must be below --world, which is {world}") })
    }

    /// The rank that a launcher put into the environment: Slurm (tasks of `srun`, array jobs, and arrays of `srun`s), a
    /// Kubernetes Indexed Job, Open MPI, or MPICH and its kin. `None` where there was no launcher. `world` is what the
    /// caller knows of the number of processes, for launchers that do not say.
    ///
    /// # Errors
    /// [`Error::Config`] names a variable that is not a number, or that has no companion saying how many there are.
    pub fn detect(variable: impl Fn(&str) -> Option<String>, world: Option<usize>) -> Result<Option<(Self, String)>> {
        let number = |name: &'static str| match variable(name) {
            None => Ok(None),
            Some(text) => text.trim().parse::<usize>().map(Some).map_err(|_| Error::Config {
                field: name,
                what: format!("{text:?} in the environment; it must be a whole number: correct it or give --rank"),
            }),
        };
        let found = |index: usize, size: usize, launcher: &str| {
            Self::new(index, size).map(|rank| Some((rank, launcher.to_owned())))
        };
        // The script of a batch job has a rank too, 0 of all tasks, though only `srun` starts the others: a step has a
        // number where `srun` made it, and a number near 2^32 where it is the script itself.
        let is_step = number("SLURM_STEP_ID")?.is_some_and(|step| step < 0xffff_0000);
        let task = match (number("SLURM_PROCID")?, number("SLURM_STEP_NUM_TASKS")?.or(number("SLURM_NTASKS")?)) {
            (Some(index), Some(size)) if is_step && size > 1 => Some((index, size)),
            _ => None,
        };
        let array = match (number("SLURM_ARRAY_TASK_ID")?, number("SLURM_ARRAY_TASK_COUNT")?) {
            (Some(id), Some(count)) => {
                let (first, step) = (number("SLURM_ARRAY_TASK_MIN")?, number("SLURM_ARRAY_TASK_STEP")?);
                Some((id.saturating_sub(first.unwrap_or(0)) / step.unwrap_or(1).max(1), count))
            }
            _ => None,
        };
        match (array, task) {
            (Some((i, n)), Some((j, m))) => {
                return found(i.saturating_mul(m).saturating_add(j), n.saturating_mul(m), "Slurm array and srun");
            }
            (Some((i, n)), None) => return found(i, n, "Slurm array"),
            (None, Some((j, m))) => return found(j, m, "srun"),
            (None, None) => {}
        }
        if let Some(index) = number("JOB_COMPLETION_INDEX")? {
            let unknown = || Error::Config {
                field: "--world",
                what: "not given, and an Indexed Job does not say how many completions it has: give --world".into(),
            };
            return found(index, world.ok_or_else(unknown)?, "Kubernetes Indexed Job");
        }
        for (rank, size, launcher) in
            [("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "Open MPI"), ("PMI_RANK", "PMI_SIZE", "MPI")]
        {
            if let (Some(index), Some(size)) = (number(rank)?, number(size)?) {
                return found(index, size, launcher);
            }
        }
        Ok(None)
    }

    /// Index of this process, from 0.
    pub fn index(self) -> usize {
        self.index
    }

    /// World size: number of processes.
    pub fn world(self) -> usize {
        self.world
    }

    /// Whether this process does what only one must do.
    pub fn is_first(self) -> bool {
        self.index == 0
    }

    /// The process that does task number `task`.
    pub(super) fn owner(self, task: usize) -> usize {
        task % self.world
    }

    /// Whether task number `task` is this process's.
    pub(super) fn owns(self, task: usize) -> bool {
        self.owner(task) == self.index
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detect(variables: &[(&str, &str)], world: Option<usize>) -> Result<Option<(usize, usize)>> {
        let lookup = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
        Ok(Rank::detect(lookup, world)?.map(|(rank, _)| (rank.index(), rank.world())))
    }

    #[test]
    fn launchers_are_recognised() {
        assert_eq!(detect(&[], None).unwrap(), None);
        let array = [("SLURM_ARRAY_TASK_ID", "7"), ("SLURM_ARRAY_TASK_COUNT", "4"), ("SLURM_ARRAY_TASK_MIN", "1")];
        let stepped = [array.as_slice(), &[("SLURM_ARRAY_TASK_STEP", "2")]].concat();
        assert_eq!(detect(&stepped, None).unwrap(), Some((3, 4)));
        let srun = [("SLURM_PROCID", "2"), ("SLURM_NTASKS", "3"), ("SLURM_STEP_ID", "0")];
        assert_eq!(detect(&srun, None).unwrap(), Some((2, 3)));
        assert_eq!(detect(&[stepped.as_slice(), &srun].concat(), None).unwrap(), Some((11, 12)));
        assert_eq!(detect(&[("JOB_COMPLETION_INDEX", "1")], Some(2)).unwrap(), Some((1, 2)));
        assert_eq!(detect(&[("PMI_RANK", "1"), ("PMI_SIZE", "2")], None).unwrap(), Some((1, 2)));
        let ompi = [("OMPI_COMM_WORLD_RANK", "0"), ("OMPI_COMM_WORLD_SIZE", "8")];
        assert_eq!(detect(&ompi, None).unwrap(), Some((0, 8)));
    }

    #[test]
    fn the_script_of_a_batch_job_is_no_rank() {
        let script = [("SLURM_PROCID", "0"), ("SLURM_NTASKS", "4"), ("SLURM_STEP_ID", "4294967291")];
        assert_eq!(detect(&script, None).unwrap(), None);
        assert_eq!(detect(&script[..2], None).unwrap(), None);
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        assert!(Rank::new(2, 2).unwrap_err().to_string().contains("--rank"));
        let error = detect(&[("PMI_RANK", "one")], None).unwrap_err().to_string();
        assert!(error.contains("PMI_RANK") && error.contains("one"), "{error}");
        assert!(detect(&[("JOB_COMPLETION_INDEX", "1")], None).unwrap_err().to_string().contains("--world"));
        assert!(detect(&[("JOB_COMPLETION_INDEX", "5")], Some(2)).unwrap_err().to_string().contains("below"));
    }
}
