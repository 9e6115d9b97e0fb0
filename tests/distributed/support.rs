//! Starts runs of one and of several ranks, signals single ranks, and compares what the runs leave.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// Longest time that a run of these tests may take.
const LONGEST: Duration = Duration::from_secs(90);

/// A launcher, with the library that belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mpi {
    Mpich,
    Open,
}

impl Mpi {
    /// Its `mpirun`. Prints what is missing where it is not installed.
    pub fn find(self) -> Option<&'static str> {
        let (names, sign, package) = match self {
            Self::Mpich => (["mpirun.mpich", "mpirun"], "HYDRA", "mpich"),
            Self::Open => (["mpirun.openmpi", "mpirun"], "Open MPI", "openmpi-bin"),
        };
        let is = |name: &&str| {
            let output = Command::new(name).arg("--version").output();
            let said = output.map(|o| [o.stdout, o.stderr].concat()).unwrap_or_default();
            let said = String::from_utf8_lossy(&said).into_owned();
            said.contains(sign) || (self == Self::Open && said.contains("OpenRTE"))
        };
        let found = names.into_iter().find(is);
        if found.is_none() {
            eprintln!("skipped: no {} (Debian, Ubuntu: apt-get install {package})", names[0]);
        }
        found
    }

    /// `mpirun` with what lets it start more ranks than there are cores, as root too.
    pub fn command(self) -> Option<Command> {
        let mut command = Command::new(self.find()?);
        if self == Self::Open {
            command.args(["--oversubscribe", "--allow-run-as-root"]);
        }
        Some(command)
    }
}

/// Lets one test of this file run at a time: each keeps all cores busy, and some measure time.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A folder with prepared data, in which runs are made.
pub struct Place {
    folder: TempDir,
    pub data: PathBuf,
}

impl Place {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = prepare(&folder.path().join("first"), 0);
        Self { folder, data }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Arguments of `train`: a small model, `steps` steps of 8 micro-batches, and the `sets` over it.
    pub fn arguments(&self, output: &str, steps: usize, sets: &[&str]) -> Vec<String> {
        let mut arguments = Vec::new();
        let data = format!("data.path={}", self.data.display());
        let steps = format!("train.steps={steps}");
        let mixed = sets.iter().any(|set| set.starts_with("data.sources."));
        let base = [
            "schedule.decay_tokens=100000",
            "schedule.decay=cosine",
            "model.hidden_size=32",
            "model.num_hidden_layers=2",
            "model.n_routed_experts=8",
            "train.batch_size=16",
            "train.micro_batch_size=2",
            "train.sequence_length=48",
            "train.clip_norm=0.5",
            "train.eval_every=3",
            "train.eval_tokens=500",
            "train.expert_load_every=1",
            "train.threads=1",
            "checkpoint.keep=100",
        ];
        let first = [steps.as_str()].into_iter().chain((!mixed).then_some(data.as_str()));
        for set in first.chain(base).chain(sets.iter().copied()) {
            arguments.extend(["--set".to_owned(), set.to_owned()]);
        }
        arguments.extend(["--output".to_owned(), self.path(output).display().to_string()]);
        arguments
    }

    /// Starts a run of `ranks` ranks, or of one without a launcher.
    pub fn start(&self, mpirun: Option<(Mpi, usize)>, output: &str, arguments: &[String]) -> Started {
        let mut command = match mpirun {
            None => Command::new(train()),
            Some((mpi, ranks)) => {
                let mut command = mpi.command().unwrap();
                command.arg("-n").arg(ranks.to_string()).arg(train());
                command
            }
        };
        command.args(arguments);
        self.spawn(command, output)
    }

    pub fn spawn(&self, mut command: Command, output: &str) -> Started {
        let said = self.path(&format!("{output}.said"));
        let file = std::fs::File::create(&said).unwrap();
        command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        let line = format!("{command:?}");
        let child = command.spawn().unwrap();
        Started { child, said, output: self.path(output), line, since: Instant::now() }
    }

    /// A run to its end, which must be a good one. Returns what was printed.
    pub fn run(&self, mpirun: Option<(Mpi, usize)>, output: &str, arguments: &[String]) -> String {
        let ended = self.start(mpirun, output, arguments).end();
        assert_eq!(ended.code, Some(0), "{}\n{}", ended.line, ended.said);
        ended.said
    }
}

pub fn train() -> &'static str {
    env!("CARGO_BIN_EXE_train")
}

/// Prepares a text of several documents, another for each `seed`.
pub fn prepare(folder: &Path, seed: u32) -> PathBuf {
    let (text, data) = (folder.join("text"), folder.join("data"));
    std::fs::create_dir_all(&text).unwrap();
    for i in 0..12u32 {
        let words: Vec<String> = (0..300u32).map(|j| format!("word{}", (i * 31 + j * j + seed * j) % 97)).collect();
        std::fs::write(text.join(format!("{i}.txt")), words.join(" ")).unwrap();
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_prep"));
    command.args(["--tokenizer", "bytes", "--set", "output.validation_fraction=0.3", "--input"]);
    let output = command.arg(&text).arg("--output").arg(&data).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    data
}

/// A run under way.
pub struct Started {
    child: Child,
    said: PathBuf,
    output: PathBuf,
    line: String,
    since: Instant,
}

/// How a run ended.
pub struct Ended {
    pub code: Option<i32>,
    pub said: String,
    pub line: String,
}

impl Started {
    /// Process of the launcher, or of the run where there is none.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn said(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.said).unwrap_or_default()).into_owned()
    }

    /// Waits until `step` steps are recorded.
    pub fn until(&mut self, step: usize) {
        while metrics(&self.output).len() < step {
            self.check(&format!("step {step}"));
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Process of a rank of this start, by its record.
    pub fn pid(&mut self, rank: usize) -> u32 {
        let path = self.output.join(format!("ranks/{rank:05}"));
        loop {
            let bytes = std::fs::read(&path).unwrap_or_default();
            let first = bytes.split(|&b| b == b'\n').next().unwrap_or_default();
            let record: Option<Value> = serde_json::from_slice(first).ok();
            // A record of an earlier start names a process that is gone.
            if let Some(pid) = record.and_then(|record| Some(record["pid"].as_u64()? as u32)).filter(|&pid| trains(pid))
            {
                return pid;
            }
            self.check("the record of a rank");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn check(&mut self, wanted: &str) {
        let ended = self.child.try_wait().unwrap();
        if ended.is_some() || self.since.elapsed() > LONGEST {
            self.stop();
            panic!("the run ended or hangs before {wanted} ({ended:?}):\n{}\n{}", self.line, self.said());
        }
    }

    /// Waits for the end.
    pub fn end(mut self) -> Ended {
        let code = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status.code();
            }
            if self.since.elapsed() > LONGEST {
                self.stop();
                panic!("the run does not end:\n{}\n{}", self.line, self.said());
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        Ended { code, said: self.said(), line: self.line }
    }

    /// Ends the processes of a run that hangs.
    fn stop(&mut self) {
        let _ = self.child.kill();
        for rank in std::fs::read_dir(self.output.join("ranks")).into_iter().flatten().flatten() {
            let text = std::fs::read_to_string(rank.path()).unwrap_or_default();
            let record: Option<Value> = text.lines().next().and_then(|line| serde_json::from_str(line).ok());
            if let Some(pid) = record.and_then(|record| record["pid"].as_u64())
                && trains(pid as u32)
            {
                signal("KILL", pid as u32);
            }
        }
    }
}

/// Whether a process is one of `train` and has not ended.
fn trains(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.contains(" (train) ") && !stat.contains(") Z ") && !stat.contains(") X ")
}

pub fn signal(name: &str, pid: u32) {
    let sent = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().unwrap();
    assert!(sent.success(), "kill -{name} {pid}");
}

/// A number below `count`, another in each run of the tests.
pub fn any(count: usize) -> usize {
    use std::hash::{BuildHasher, RandomState};
    (RandomState::new().hash_one(count) % count as u64) as usize
}

/// The lines of `metrics.jsonl` without times and traffic.
pub fn metrics(output: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(output.join("metrics.jsonl")).unwrap_or_default();
    let parse = |line: &str| {
        let mut value: Value = serde_json::from_str(line).ok()?;
        for key in ["seconds", "tokens_per_second", "comm_seconds", "comm_bytes"] {
            value.as_object_mut()?.remove(key);
        }
        Some(value)
    };
    text.lines().filter_map(parse).collect()
}

/// Steps of the checkpoints of a run.
pub fn checkpoints(output: &Path) -> Vec<u64> {
    let names = std::fs::read_dir(output).into_iter().flatten().flatten();
    let step = |name: std::ffi::OsString| name.to_str()?.strip_prefix("step-")?.parse::<u64>().ok();
    let mut steps: Vec<u64> = names.filter_map(|entry| step(entry.file_name())).collect();
    steps.sort_unstable();
    steps
}

/// Every file with tensors of the last checkpoint.
fn tensors(output: &Path) -> BTreeMap<String, Vec<u8>> {
    let step = *checkpoints(output).last().unwrap_or_else(|| panic!("no checkpoint in {}", output.display()));
    let folder = output.join(format!("step-{step:08}"));
    let mut found = BTreeMap::new();
    for place in ["", "trainer"] {
        for entry in std::fs::read_dir(folder.join(place)).unwrap().flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|extension| extension == "safetensors") {
                let name = path.strip_prefix(output).unwrap().display().to_string();
                found.insert(name, std::fs::read(path).unwrap());
            }
        }
    }
    found
}

/// Fails unless two runs have the same metrics, and the same bytes in all files with tensors of the last checkpoint.
pub fn assert_same(what: &str, a: &Path, b: &Path) {
    let (mine, other) = (metrics(a), metrics(b));
    for (step, wanted) in mine.iter().zip(&other) {
        assert_eq!(step, wanted, "{what}: metrics");
    }
    assert_eq!(mine.len(), other.len(), "{what}: number of steps");
    let (mine, other) = (tensors(a), tensors(b));
    assert!(mine.keys().eq(other.keys()), "{what}: {:?} and {:?}", mine.keys(), other.keys());
    for (name, bytes) in &mine {
        assert!(*bytes == other[name], "{what}: {name} differs");
    }
    assert!(mine.len() >= 3, "{what}: weights and moments");
}
