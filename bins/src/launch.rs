//! Starts a run as one rank of several: finds the launcher, joins the others by MPI, and keeps watch over them.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fathom_core::comm::{AllGather, AllToAll, Comm, Solo};
use fathom_core::device::{Device, Host};
use fathom_cuda::{Cuda, CudaError, Nccl};
use fathom_mpi::{Launched, Mpi};

use crate::checkpoint;
use crate::cli::signals::handle;
use crate::error::{Error, Result};
use crate::run::watch::{self, Identity, Limits, Progress, Verdict, Watch, Watched};
use crate::run::{self, Observed};
use crate::settings::Settings;

/// The program that starts several ranks, where it is not `mpirun`.
const MPIRUN: &str = "FATHOM_MPIRUN";
/// The most ranks that are started for each core: what trains at all, though slower than one.
const MOST_PER_CORE: usize = 8;
/// How often the end of `mpirun` is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Time for the other ranks to say what they found, before this one leaves and the launcher ends them.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// This process among those of a launcher, if it was started as one of several.
///
/// # Errors
/// A launcher's variables that make no sense.
pub fn launched() -> Result<Option<Launched>> {
    fathom_mpi::launched(|name| std::env::var(name).ok()).map_err(|error| Error::Usage(error.to_string()))
}

/// Refuses more ranks than this machine can run.
///
/// # Errors
/// Names how many it can.
pub fn limit(ranks: usize) -> Result<()> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let most = MOST_PER_CORE * cores;
    match ranks <= most {
        true => Ok(()),
        false => Err(Error::Usage(format!(
            "--ranks {ranks} would start {ranks} processes on this machine's {cores} cores: {most} at most"
        ))),
    }
}

/// The program that starts several ranks.
pub(crate) fn mpirun() -> PathBuf {
    std::env::var_os(MPIRUN).filter(|name| !name.is_empty()).unwrap_or_else(|| "mpirun".into()).into()
}

/// Runs `mpirun` with `ranks` processes of this program, with the same arguments but `--ranks`, and leaves with its
/// exit code. A first Ctrl-C or SIGTERM asks the ranks to finish their step and save; a second one ends them. Where the
/// run in `output` did not end well, says what its ranks left behind about that.
///
/// # Errors
/// There is no `mpirun`, or it cannot be started.
pub fn start(ranks: usize, output: &Path) -> Result<()> {
    let mpirun = mpirun();
    let version = Command::new(&mpirun).arg("--version").output().map_err(|error| {
        Error::Run(format!(
            "--ranks {ranks} starts {}, which cannot be run ({error}): install an MPI (Debian, Ubuntu: apt-get install \
             mpich, or openmpi-bin), or name its mpirun as {MPIRUN}",
            mpirun.display()
        ))
    })?;
    let open_mpi = String::from_utf8_lossy(&version.stdout).contains("Open MPI");
    let program = std::env::current_exe().map_err(Error::io("find", Path::new("this program")))?;
    let mut command = Command::new(&mpirun);
    if open_mpi {
        // It refuses more ranks than cores, and to run as root, and binds each of two ranks to one core, unless it is
        // told otherwise.
        command.args(["--oversubscribe", "--allow-run-as-root", "--bind-to", "none"]);
    }
    command.arg("-n").arg(ranks.to_string()).arg(program).args(without_ranks(std::env::args_os().skip(1)));
    // A terminal tells its whole group of a Ctrl-C, at which mpirun of Open MPI kills its ranks a second later.
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let (signals, told) = channel();
    // Nobody listens any more where mpirun has ended.
    handle(move |_| signals.send(()).unwrap_or_default())?;
    // A group in the background that reads a terminal is stopped.
    let mut child = command.stdin(Stdio::null()).spawn().map_err(Error::io("start", &mpirun))?;
    let mut asked = false;
    let status = loop {
        if let Some(status) = child.try_wait().map_err(Error::io("wait for", &mpirun))? {
            break status;
        }
        if told.recv_timeout(LOOK_EVERY).is_ok() {
            tell(&child, open_mpi, asked);
            asked = true;
        }
    };
    if !status.success()
        && let Some(ended) = watch::previous(output)
    {
        eprintln!("{ended}");
    }
    std::process::exit(status.code().unwrap_or(1))
}

/// Asks the ranks of an `mpirun` to finish, or ends them where they were asked before.
#[cfg(unix)]
fn tell(mpirun: &Child, open_mpi: bool, asked: bool) {
    use rustix::process::{Pid, Signal, kill_process};
    // Both hand the signal on to the ranks: that of Open MPI kills them after SIGTERM, and not after this one.
    let signal = match (asked, open_mpi) {
        (false, true) => Signal::USR1,
        (false, false) | (true, true) => Signal::TERM,
        (true, false) => Signal::KILL,
    };
    if let Some(pid) = i32::try_from(mpirun.id()).ok().and_then(Pid::from_raw) {
        // Where it has just ended there is nobody to tell.
        let _ = kill_process(pid, signal);
    }
}

#[cfg(not(unix))]
fn tell(_mpirun: &Child, _open_mpi: bool, _asked: bool) {}

/// The arguments without `--ranks N`.
fn without_ranks(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut kept = Vec::new();
    let mut skip = false;
    for argument in arguments {
        let text = argument.to_string_lossy();
        if std::mem::take(&mut skip) || text.starts_with("--ranks=") {
            continue;
        }
        skip = text == "--ranks";
        if !skip {
            kept.push(argument);
        }
    }
    kept
}

/// What a run moves data by: the ranks of its launcher, or [`alone`].
pub type Ranks<D> = Watched<Box<dyn Comm<D>>>;

/// One rank, and nothing to watch.
pub fn alone<D: Device>() -> (Ranks<D>, Observed) {
    (Watched::new(Box::new(Solo), Progress::default()), Observed::default())
}

/// One rank of several, joined to the others.
pub struct Rank {
    launched: Launched,
    watch: Watch,
    /// Ranks on this machine.
    neighbors: usize,
    /// Time in which all ranks must start.
    patience: Duration,
}

impl Rank {
    /// Joins the other ranks of a run that writes into `output`. Rank 0 says what the ranks run on, and what the
    /// records of a run before say of its end.
    ///
    /// # Errors
    /// No MPI, or one that is not the launcher's.
    pub fn join(launched: Launched, settings: &Settings, output: &Path) -> Result<(Self, Mpi)> {
        let mpi = {
            // MPI itself waits without end for a rank that does not come.
            let _late = Late::after(settings.parallel.init_timeout, launched.rank, launched.world);
            Mpi::start(&launched).map_err(|error| Error::Run(error.to_string()))?
        };
        let identity = |host: u64| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
            let told = Comm::<Host>::tell(&mpi, &[now, u64::from(std::process::id()), host]);
            told.map_err(Error::device("starting the ranks"))
        };
        let host = std::fs::read("/etc/hostname").unwrap_or_default();
        let boot = std::fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let host = [host, boot].concat().iter().fold(0u64, |h, &b| h.wrapping_mul(31).wrapping_add(u64::from(b)));
        let told = identity(host)?;
        let neighbors = told.chunks_exact(3).filter(|words| words[2] == host).count();
        let run = format!("{:x}-{:x}", told[0], told[1]);
        // Before a record is written over those of a run that is under way.
        let free = if launched.rank == 0 { run::lock(output).map(drop) } else { Ok(()) };
        let told = Comm::<Host>::tell(&mpi, &[u64::from(free.is_err())]);
        let told = told.map_err(Error::device("starting the ranks"))?;
        free?;
        if told.iter().any(|&word| word != 0) {
            return Err(Error::Run("rank 0 cannot write the run: see its own message".into()));
        }
        if launched.rank == 0 {
            let how = &settings.parallel.how;
            eprintln!("{} ranks: {}, {how}", launched.world, mpi.library());
            if let Some(before) = watch::previous(output) {
                eprintln!("{before}");
            }
        }
        let limits = Limits { timeout: settings.parallel.timeout, patient: settings.parallel.init_timeout };
        let rank = launched.rank;
        let folder = output.to_path_buf();
        let watch = Watch::start(output, Identity::new(rank, launched.world, &run), limits, move |verdict| {
            give_up(rank, verdict, &folder)
        });
        Ok((Self { launched, watch, neighbors, patience: settings.parallel.init_timeout }, mpi))
    }

    /// Checks that all ranks train on a device of the same `kind`: others give other last bits, and other ways to
    /// exchange data.
    ///
    /// # Errors
    /// The first rank that differs from rank 0.
    pub fn same_kind(&self, mpi: &Mpi, kind: &str) -> Result<()> {
        let mut word = [0; 8];
        kind.bytes().take(8).zip(&mut word).for_each(|(byte, to)| *to = byte);
        let told = Comm::<Host>::tell(mpi, &[u64::from_le_bytes(word)]).map_err(Error::device("comparing devices"))?;
        match told.iter().position(|kind| *kind != told[0]) {
            None => Ok(()),
            Some(rank) => Err(Error::Run(format!(
                "rank {rank} has another kind of device than rank 0 (here it is {kind}): give all ranks the same \
                 --device"
            ))),
        }
    }

    /// The ranks under the watch of this one.
    pub fn watched<D: Device>(&self, comm: Box<dyn Comm<D>>) -> (Ranks<D>, Observed) {
        let ranks = Watched::new(comm, self.watch.progress());
        let observed = Observed { progress: self.watch.progress(), meter: Some(ranks.meter()) };
        (ranks, observed)
    }

    /// What moves data between GPUs: NCCL where all ranks have it, else MPI, by copies through the host.
    ///
    /// # Errors
    /// NCCL that does not start; another rank that is lost.
    pub fn between_gpus(&self, device: &Cuda, mpi: Mpi) -> Result<Box<dyn Comm<Cuda>>> {
        let here = Nccl::available(device).map_err(|error| error.to_string());
        let leads = self.launched.rank == 0;
        let id = here.and_then(|()| match leads {
            true => Nccl::unique_id().map_err(|error| error.to_string()),
            false => Ok([0; 128]),
        });
        let (here, id) = (id.as_ref().map(drop).map_err(Clone::clone), id.unwrap_or([0; 128]));
        let mut words = vec![u64::from(here.is_ok())];
        words.extend(id.chunks_exact(8).map(|bytes| bytes.iter().fold(0, |word, &b| word << 8 | u64::from(b))));
        let told = Comm::<Cuda>::tell(&mpi, &words).map_err(Error::device("starting NCCL"))?;
        let all = told.chunks_exact(words.len()).all(|words| words[0] == 1);
        if !all {
            if leads {
                let why = here.err().unwrap_or_else(|| "another rank lacks it".into());
                eprintln!("NCCL is not used, so the ranks exchange data through the host: {why}");
            }
            return Ok(Box::new(mpi));
        }
        let mut id = [0; 128];
        for (bytes, word) in id.chunks_exact_mut(8).zip(&told[1..]) {
            bytes.copy_from_slice(&word.to_be_bytes());
        }
        let nccl = Nccl::start_within(device, id, self.launched.rank, self.launched.world, self.patience);
        Ok(Box::new(OverNccl { nccl: nccl.map_err(Error::device("starting NCCL"))?, mpi }))
    }

    /// The device that this rank is to use where several are on one machine: of GPUs, that with its number there.
    pub fn device(&self, name: &str) -> String {
        let gpus = if name == "auto" || name == "cuda" { Cuda::count() } else { 0 };
        match name {
            _ if gpus > 1 => format!("cuda:{}", self.launched.local_rank % gpus),
            // Rank 0 says what was found.
            "auto" if self.launched.rank > 0 => if gpus > 0 { "cuda" } else { "cpu" }.into(),
            name => name.into(),
        }
    }

    /// How many ranks are on this machine.
    pub fn neighbors(&self) -> usize {
        self.neighbors
    }

    /// Threads of a rank where `asked` is 0: an equal share of the cores that the ranks of this machine have.
    pub fn threads(&self, asked: usize) -> usize {
        let allowed = std::thread::available_parallelism().map_or(1, usize::from);
        let online = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let online = online.lines().filter(|line| line.starts_with("processor")).count().max(allowed);
        match asked {
            // A launcher that binds each rank to some cores has divided them already.
            0 if allowed < online => allowed,
            0 => (allowed / self.neighbors.max(1)).max(1),
            asked => asked,
        }
    }

    /// Ends all ranks after an error of this one: says it, and whom it waited for if another rank was lost.
    pub fn fail(&self, error: &Error, output: &Path) -> ! {
        let rank = self.launched.rank;
        if error.is_peer_lost() {
            if let Some(verdict) = self.watch.explain(LAST_WORDS) {
                self.watch.progress().lost(verdict.finding(), verdict.rank);
                give_up(rank, &verdict, output);
            }
            eprintln!("error: rank {rank}: {error}");
            self.watch.progress().lost(error.to_string(), None);
            Mpi::abort(i32::from(watch::EXIT_CODE));
        }
        eprintln!("error: rank {rank}: {error}");
        self.watch.progress().failed(error.to_string());
        std::thread::sleep(LAST_WORDS);
        Mpi::abort(i32::from(error.exit_code()))
    }

    /// All ranks have done their work: MPI ends with them when what uses it is dropped.
    pub fn may_end() {
        Mpi::may_end();
    }
}

/// Ends this process where the ranks did not all start in time; dropped when they have.
struct Late {
    _started: Option<Sender<()>>,
}

impl Late {
    fn after(limit: Duration, rank: usize, world: usize) -> Self {
        let (started, waiting) = channel::<()>();
        let watch = move || {
            if waiting.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                let seconds = limit.as_secs_f64();
                eprintln!(
                    "error: rank {rank} gives up: not all {world} ranks have started after {seconds:.0} s \
                     (parallel.init_timeout_seconds)"
                );
                Mpi::abort(i32::from(watch::EXIT_CODE));
            }
        };
        let named = std::thread::Builder::new().name("start".into());
        Self { _started: named.spawn(watch).ok().map(|_| started) }
    }
}

/// Tensors go by NCCL from GPU to GPU, words by MPI from host to host.
struct OverNccl {
    nccl: Nccl,
    mpi: Mpi,
}

impl Comm<Cuda> for OverNccl {
    fn rank(&self) -> usize {
        self.mpi.rank()
    }

    fn world(&self) -> usize {
        self.mpi.world()
    }

    fn all_to_all(&self, device: &Cuda, call: AllToAll<'_, Cuda>) -> Result<(), CudaError> {
        self.nccl.all_to_all(device, call)
    }

    fn all_gather(&self, device: &Cuda, call: AllGather<'_, Cuda>) -> Result<(), CudaError> {
        self.nccl.all_gather(device, call)
    }

    fn tell(&self, words: &[u64]) -> Result<Vec<u64>, CudaError> {
        Comm::<Cuda>::tell(&self.mpi, words)
    }
}

/// Says whom this rank waited for in vain, and leaves with the others.
fn give_up(rank: usize, verdict: &Verdict, output: &Path) -> ! {
    let stands = match checkpoint::list(output).unwrap_or_default().first() {
        Some((_, folder)) => format!("the last checkpoint, {}, stands: start again with --resume", folder.display()),
        None => "no checkpoint was written yet".into(),
    };
    eprintln!("error: rank {rank} gives up: {verdict} (parallel.timeout_seconds); {stands}");
    std::thread::sleep(LAST_WORDS);
    Mpi::abort(i32::from(watch::EXIT_CODE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ranks_get_the_arguments_without_their_number() {
        let kept = |words: &[&str]| {
            let kept = without_ranks(words.iter().map(OsString::from));
            kept.into_iter().map(|word| word.into_string().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(kept(&["data", "--ranks", "4", "--resume"]), ["data", "--resume"]);
        assert_eq!(kept(&["--ranks=4", "data"]), ["data"]);
        assert_eq!(kept(&["data"]), ["data"]);
    }
}
