//! The state of processes on this host, as Linux shows it in `/proc`; elsewhere all are unknown.

use super::record::checksum;

/// State of a rank's process, seen from another one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Process {
    /// On another host, or the system does not say.
    #[default]
    Unknown,
    /// It runs or sleeps.
    Alive,
    /// It waits in the kernel and cannot be interrupted, for a disk or a network.
    Blocked,
    /// It was stopped, by SIGSTOP or a debugger.
    Stopped,
    /// It has ended.
    Gone,
}

/// State of process `pid`, if it is still the one that began at `started`.
pub fn process(pid: u32, started: u64) -> Process {
    match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(text) => match stat(&text) {
            Some((_, began)) if began != started => Process::Gone,
            Some(('Z' | 'X' | 'x', _)) => Process::Gone,
            Some(('T' | 't', _)) => Process::Stopped,
            Some(('D', _)) => Process::Blocked,
            Some(_) => Process::Alive,
            None => Process::Unknown,
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Process::Gone,
        // ESRCH: the process ended between opening and reading.
        Err(error) if error.raw_os_error() == Some(3) => Process::Gone,
        Err(_) => Process::Unknown,
    }
}

/// State and begin of a process, from its `/proc/PID/stat`.
fn stat(text: &str) -> Option<(char, u64)> {
    // The name before it is in parentheses, and may have some itself.
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

/// When this process began, and the place where its number has a meaning: a hash of boot and process namespace.
/// None without `/proc`, or where it shows another namespace.
pub fn own() -> Option<(u64, String)> {
    let text = std::fs::read_to_string("/proc/self/stat").ok()?;
    if text.split(' ').next()?.parse() != Ok(std::process::id()) {
        return None;
    }
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let space = std::fs::read_link("/proc/self/ns/pid").ok()?;
    let place = checksum(format!("{boot} {}", space.display()).as_bytes());
    Some((stat(&text)?.1, format!("{place:016x}")))
}

/// Name of this host.
pub fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let name = name.or_else(|| std::env::var("HOSTNAME").ok()).or_else(|| std::env::var("COMPUTERNAME").ok());
    name.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).unwrap_or_else(|| "unknown host".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_and_begin_are_read_after_a_name_with_parentheses() {
        let text = "42 (a) S b) (c) T 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 777 20 21";
        assert_eq!(stat(text), Some(('T', 777)));
        assert_eq!(stat("42 (a) T 1"), None);
        assert_eq!(stat(""), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_is_alive_and_one_with_its_number_that_began_at_another_time_is_gone() {
        let (started, place) = own().unwrap();
        assert!(started > 0 && !place.is_empty());
        let pid = std::process::id();
        assert!(matches!(process(pid, started), Process::Alive | Process::Blocked));
        assert_eq!(process(pid, started + 1), Process::Gone);
        assert_eq!(process(u32::MAX, started), Process::Gone);
        assert_ne!(host(), "unknown host");
    }
}
