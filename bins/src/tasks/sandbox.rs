//! Programs that a model wrote, run in a process with limits.
//!
//! A program gets a namespace each for users, network, mounts and processes, and a session without terminal: it sees no
//! network, no sockets of the system's services and not the home folder, all file systems are read-only but for a small
//! one in memory, and every process that it starts ends with it. Limits hold on time, memory, processes and files; a
//! caller who is root is nobody in it. What it can read otherwise is what the caller can. The parts are the programs
//! `timeout`, `setpriv`, `unshare`, `setsid` and `prlimit` of Linux systems.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::{Error, Result};

/// Seconds after which a program is ended.
const SECONDS: u64 = 10;
/// Seconds after which everything is, the preparation of its namespaces included.
const ALL_SECONDS: u64 = 60;
/// Seconds of a processor that it may take.
const CPU_SECONDS: u64 = 5;
/// Bytes of memory that a process may take.
const MEMORY: u64 = 1 << 30;
/// Processes and threads at a time.
const PROCESSES: u64 = 32;
/// Bytes of a file, and of the file system in memory.
const FILE: u64 = 16 << 20;
/// The user that root becomes.
const NOBODY: &str = "65534";
/// Programs that the sandbox is made of.
const TOOLS: [&str; 6] = ["timeout", "setpriv", "unshare", "setsid", "prlimit", "mount"];

/// Prepares the namespaces and runs the program: all file systems are made read-only first, folders of sockets and the
/// home folder are covered, and a small file system is put over `/tmp`. The shell stays, as the process whose end is
/// that of all others.
const PREPARE: &str = r#"
mount --make-rprivate / || exit 91
while read -r device folder type options rest; do
  folder=$(printf '%b' "$folder")
  case $folder in /proc|/proc/*) continue;; esac
  flags=remount,bind,ro
  for flag in nosuid nodev noexec noatime nodiratime; do
    case ,$options, in *,$flag,*) flags=$flags,$flag;; esac
  done
  mount -o "$flags" "$folder" 2>/dev/null || [ ! -e "$folder" ] || exit 94
done < /proc/self/mounts
for folder in /run /var/run /dev/shm /var/tmp "$2"; do
  if [ -d "$folder" ] && [ "$folder" != / ]; then mount -t tmpfs -o ro,size=4k tmpfs "$folder" || exit 92; fi
done
mount -t tmpfs -o size="$1",nr_inodes=1000 tmpfs /tmp || exit 92
cd /tmp || exit 93
for folder in / /etc /usr /var/tmp "$HOME"; do if [ -w "$folder" ]; then exit 94; fi; done
shift 2
setsid --wait "$@"
exit $?
"#;

/// Runs the program of the standard input as the harness does, and says by a word at its end that no exception came.
const DRIVER: &str = r#"
import os, sys
word, source = sys.stdin.read().split("\n", 1)
out = os.dup(1)
null = os.open(os.devnull, os.O_RDWR)
for stream in (0, 1, 2): os.dup2(null, stream)
exec(compile(source, "program", "exec"), {})
os.write(out, word.encode())
"#;

/// The outcome of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It came to its end.
    Passed,
    /// An exception, a limit, or an end before the end.
    Failed,
    /// It was ended after its time.
    TimedOut,
}

/// A way to run programs with limits, which was tried when it was made.
#[derive(Clone, Debug)]
pub struct Sandbox {
    root: bool,
    home: PathBuf,
    python: PathBuf,
    /// The folder that is covered beside those of sockets: the home folder, unless Python is in it.
    covered: PathBuf,
    /// Seconds after which a program is ended.
    seconds: u64,
}

impl Sandbox {
    /// Finds the tools and a Python, and runs an empty program.
    ///
    /// # Errors
    /// [`Error::Run`] where this system has no such namespaces, tools or Python.
    pub fn new() -> Result<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
        let missing = TOOLS.iter().find(|tool| !folders.iter().any(|folder| folder.join(tool).is_file()));
        if let Some(tool) = missing {
            return Err(refused(&format!("there is no program `{tool}`: install coreutils and util-linux")));
        }
        let id = Command::new("id").arg("-u").output().map_err(|e| refused(&format!("`id -u` failed: {e}")))?;
        let root = id.stdout.trim_ascii() == b"0";
        let home = std::env::var_os("HOME").map_or_else(|| "/".into(), PathBuf::from);
        let mut told = "there is no python3".to_owned();
        for python in folders.iter().map(|folder| folder.join("python3")).filter(|python| python.is_file()) {
            let real = std::fs::canonicalize(&python).unwrap_or_else(|_| python.clone());
            let inside = [&python, &real].into_iter().any(|python| python.starts_with(&home));
            let covered = if inside { "/run".into() } else { home.clone() };
            let sandbox = Self { root, home: home.clone(), python, covered, seconds: SECONDS };
            match sandbox.start("")? {
                (Outcome::Passed, _) => return Ok(sandbox),
                (_, code) => {
                    let (python, code) =
                        (sandbox.python.display(), code.map_or("none".into(), |code| code.to_string()));
                    told = format!("an empty program did not pass with {python} (exit code {code})");
                }
            }
        }
        Err(refused(&format!(
            "{told}: it needs Linux with user namespaces and a Python that every user can read; in a container, allow \
             `unshare` and `mount`"
        )))
    }

    /// Runs a Python program.
    ///
    /// # Errors
    /// [`Error::Run`] where no process can be started.
    pub fn run(&self, program: &str) -> Result<Outcome> {
        self.start(program).map(|(outcome, _)| outcome)
    }

    /// The outcome of a program, and the exit code.
    fn start(&self, program: &str) -> Result<(Outcome, Option<i32>)> {
        let mut command = Command::new("timeout");
        command.args(["--signal=KILL", &ALL_SECONDS.to_string()]);
        if self.root {
            command.args(["setpriv", "--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"]);
        }
        command.args(["unshare", "--user", "--map-root-user", "--mount", "--net", "--pid", "--ipc", "--uts"]);
        command.args(["--fork", "--kill-child", "--mount-proc", "sh", "-c", PREPARE, "sh", &FILE.to_string()]);
        command.arg(&self.covered).args(["timeout", "--signal=KILL", &self.seconds.to_string()]);
        command.args(["setpriv", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all", "prlimit"]);
        let limits = [("as", MEMORY), ("nproc", PROCESSES), ("cpu", CPU_SECONDS), ("fsize", FILE), ("core", 0)];
        command.args(limits.map(|(name, limit)| format!("--{name}={limit}")));
        command.arg("--nofile=64").arg(&self.python).args(["-I", "-c", DRIVER]);
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", &self.home)
            .env("LC_ALL", "C.UTF-8");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).current_dir("/");
        let failed = |e: std::io::Error| refused(&format!("cannot start `timeout`: {e}"));
        let mut child = command.spawn().map_err(failed)?;
        let word = word();
        if let Some(mut input) = child.stdin.take() {
            // A process that has ended already reads nothing.
            let _ = input.write_all(format!("{word}\n{program}").as_bytes());
        }
        let mut said = Vec::new();
        if let Some(output) = child.stdout.take() {
            let _ = output.take(4096).read_to_end(&mut said);
        }
        let status = child.wait().map_err(failed)?;
        let outcome = match status.code() {
            _ if said == word.as_bytes() => Outcome::Passed,
            // `timeout` is ended by the signal that it sends, or gives 128 + 9.
            None | Some(137) => Outcome::TimedOut,
            _ => Outcome::Failed,
        };
        Ok((outcome, status.code()))
    }
}

fn refused(why: &str) -> Error {
    Error::Run(format!("programs cannot be run with limits here: {why}"))
}

/// A word that no program writes by chance.
fn word() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos());
    format!("done-{:x}-{now:x}", std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sandbox, where this system has what it needs.
    fn sandbox() -> Option<Sandbox> {
        Sandbox::new().map_err(|e| println!("passed over: {e}")).ok()
    }

    /// The outcome of a program; once more where it was ended for its time, which runs while a machine is busy or its
    /// processes are stopped.
    fn outcome(sandbox: &Sandbox, program: &str) -> Outcome {
        let run = || sandbox.run(program).unwrap();
        let first = run();
        if first == Outcome::TimedOut { run() } else { first }
    }

    #[test]
    fn programs_pass_or_fail_by_their_exceptions() {
        let Some(sandbox) = sandbox() else { return };
        for (program, outcome) in [
            ("def f(x):\n    return x + 1\nassert f(1) == 2", Outcome::Passed),
            ("print('text' * 100000)", Outcome::Passed),
            ("assert False", Outcome::Failed),
            ("def", Outcome::Failed),
            ("import sys; sys.exit(0)", Outcome::Failed),
            ("import os; os._exit(0)", Outcome::Failed),
            ("if __name__ == '__main__': raise ValueError", Outcome::Passed),
        ] {
            assert_eq!(self::outcome(&sandbox, program), outcome, "{program}");
        }
    }

    /// Each of these passes only if the sandbox refuses something.
    #[test]
    fn memory_files_and_the_network_have_limits() {
        let Some(sandbox) = sandbox() else { return };
        let refuses = |body: &str, error: &str| {
            let program = format!("import os, socket\ntry:\n    {body}\nexcept {error}: pass\nelse: raise SystemError");
            assert_eq!(outcome(&sandbox, &program), Outcome::Passed, "{body}");
        };
        refuses("x = bytearray(2 << 30)", "MemoryError");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        refuses(&format!("socket.create_connection(('127.0.0.1', {port}), 1)"), "OSError");
        // A folder that everybody may write to, and that nothing covers.
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir_in(std::env::current_exe().unwrap().parent().unwrap()).unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        let path = folder.path().join("kept");
        std::fs::write(&path, "kept").unwrap();
        for path in [path.as_path(), &folder.path().join("new"), "/run/written".as_ref(), "/usr/written".as_ref()] {
            refuses(&format!("open({:?}, 'w')", path.display().to_string()), "OSError");
        }
        assert_eq!(std::fs::read(&path).unwrap(), b"kept");
        // Its own file system is small.
        refuses("open('/tmp/x', 'wb').write(bytes(32 << 20))", "OSError");
        let own = "with open('x', 'w') as file: file.write('a')\nassert open('x').read() == 'a'";
        assert_eq!(outcome(&sandbox, own), Outcome::Passed);
    }

    #[test]
    fn a_program_that_forks_or_sleeps_ends_with_all_its_processes() {
        let Some(mut sandbox) = sandbox() else { return };
        // More processes than are allowed, each of which sleeps; the first ends only after them.
        let fork = "import os, time\nn = 0\ntry:\n    while n < 100:\n        if os.fork() == 0:\n            \
                    time.sleep(60); os._exit(0)\n        n += 1\nexcept OSError: pass\nassert n < 64, n";
        assert_eq!(outcome(&sandbox, fork), Outcome::Passed, "forks are limited, and nobody waits for the sleepers");
        sandbox.seconds = 2;
        assert_ne!(sandbox.run("while True: pass").unwrap(), Outcome::Passed);
        let marker = format!("sleeper{}", std::process::id());
        let sleep = format!(
            "import os, time\nif os.fork() == 0: os.execvp('sh', ['sh', '-c', 'sleep 77; : # {marker}'])\n\
                             time.sleep(60)"
        );
        assert_eq!(sandbox.run(&sleep).unwrap(), Outcome::TimedOut);
        // Also where a program tells the system not to end it with its parent.
        let stays = format!(
            "import ctypes, os\nos.setsid()\nctypes.CDLL(None).prctl(1, 0)\n\
             os.execvp('sh', ['sh', '-c', 'sleep 77; : # {marker}'])"
        );
        assert_eq!(sandbox.run(&stays).unwrap(), Outcome::TimedOut);
        let alive = || {
            let processes = std::fs::read_dir("/proc").unwrap().flatten().filter(|entry| {
                let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
                String::from_utf8_lossy(&command).contains(&format!("# {marker}"))
            });
            processes.count()
        };
        // The system ends the processes of a namespace after its first.
        let begun = std::time::Instant::now();
        while alive() > 0 && begun.elapsed().as_secs() < 10 {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        assert_eq!(alive(), 0, "no process is left");
    }
}
