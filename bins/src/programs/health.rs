//! `health`: asks a server whether it answers, for images without a shell or `curl`.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use crate::cli::{self, Command, Program};
use crate::error::{Error, Result};
use argh::{ArgsInfo, FromArgs};

/// The command.
pub const COMMAND: Command = Command::new::<Arguments>("health", "ask a server whether it answers");

/// Bytes of an answer that are read, at most.
const LONGEST: usize = 16 << 10;

/// Ask a server (`serve`) whether it answers: GET /health, which needs no key. Prints what it says: `ok`, `loading`.
#[derive(FromArgs, ArgsInfo)]
#[argh(
    help_triggers("--help"),
    example = "{command_name}",
    example = "{command_name} --address 127.0.0.1:8000",
    error_code(0, "it answers requests"),
    error_code(1, "it does not: nobody listens, or the model is being loaded, or it stops"),
    error_code(2, "wrong arguments")
)]
struct Arguments {
    /// address and port of the server (default: 127.0.0.1:8080)
    #[argh(option, default = "String::from(\"127.0.0.1:8080\")", arg_name = "address:port")]
    address: String,
    /// seconds to wait for it (default: 5)
    #[argh(option, default = "5", arg_name = "n")]
    seconds: u64,
}

impl Program for Arguments {
    fn run(self) -> Result<()> {
        let wait = Duration::from_secs(self.seconds.clamp(1, 3600));
        let wrong =
            |e: std::io::Error| Error::Usage(format!("--address {}: must be as 127.0.0.1:8080 ({e})", self.address));
        let addresses: Vec<SocketAddr> = self.address.to_socket_addrs().map_err(wrong)?.collect();
        let failed = |e: std::io::Error| Error::Run(format!("{} does not answer: {e}", self.address));
        let (status, state) = ask(&addresses, &self.address, wait).map_err(failed)?;
        if status != 200 {
            return Err(Error::Run(format!("{} is not ready: {state} (status {status})", self.address)));
        }
        cli::print(&format!("{state}\n"))
    }
}

/// The status of `/health`, and the word that comes with it.
fn ask(addresses: &[SocketAddr], host: &str, wait: Duration) -> std::io::Result<(u16, String)> {
    let until = Instant::now() + wait;
    let left = || until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    let mut stream = Err(std::io::Error::other("it has no address"));
    for address in addresses {
        stream = TcpStream::connect_timeout(address, left());
        if stream.is_ok() {
            break;
        }
    }
    let mut stream = stream?;
    stream.set_write_timeout(Some(left()))?;
    // In one piece: a server that has read enough may close before the rest.
    let request = format!("GET /health HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let (mut answer, mut buffer) = (Vec::new(), [0; 1024]);
    while answer.len() < LONGEST && Instant::now() < until {
        stream.set_read_timeout(Some(left()))?;
        match stream.read(&mut buffer)? {
            0 => break,
            n => answer.extend(&buffer[..n]),
        }
    }
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
    let status = status.ok_or_else(|| std::io::Error::other("this is no HTTP"))?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let state = serde_json::from_str::<serde_json::Value>(body).ok();
    let state = state.and_then(|json| Some(json.get("status")?.as_str()?.to_owned()));
    Ok((status, state.unwrap_or_else(|| "it does not say how it is".into())))
}
