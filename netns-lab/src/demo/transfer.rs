//! One download by curl.

use crate::{Lab, content, interrupt};
use anyhow::{Context, Result};
use std::io::Read;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

/// What came of one download.
#[derive(Debug, Clone, PartialEq)]
pub struct Transfer {
    /// What was asked for.
    pub path: String,
    /// curl's end of the connection, "address:port".
    pub client: String,
    /// The status code, 0 if none came.
    pub status: u16,
    /// How many bytes of body came.
    pub bytes: u64,
    /// Their SHA-256, lower-case hex.
    pub sha256: String,
    /// From curl's start to the last byte.
    pub seconds: f64,
    /// What curl complained about, if it did.
    pub complaint: Option<String>,
}

/// What curl writes to its standard error after the download.
const WRITE_OUT: &str = "%{stderr}\n%{http_code} %{local_ip} %{local_port} %{time_total}";

/// Address and port as one word, however a program writes IPv6 addresses.
pub(super) fn endpoint(address: &str, port: &str) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

/// Downloads a path from a VIP with curl on a client; what arrives is hashed as it comes.
pub(crate) fn download(lab: &Lab, client: &str, vip: SocketAddr, path: &str) -> Result<Transfer> {
    let url = format!("http://{vip}{path}");
    let args = ["-sS", "--globoff", "--max-time", "120", "--output", "-", "--write-out", WRITE_OUT, &url];
    let mut command = lab.command(client, "curl")?;
    // A group of its own: Ctrl-C reaches the lab, which ends curl.
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let mut child = command
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start curl")?;
    let stdout = child.stdout.take().context("curl's standard output is a pipe")?;
    let mut stderr = child.stderr.take().context("curl's standard error is a pipe")?;
    let body = std::thread::spawn(move || content::sha256_of(stdout));
    let said = std::thread::spawn(move || {
        let mut text = String::new();
        stderr.read_to_string(&mut text).map(|_| text)
    });
    let ended = interrupt::wait_until(Duration::from_secs(150), || Ok(child.try_wait()?.is_some()));
    if !matches!(ended, Ok(true)) {
        let _ = child.kill();
    }
    let status = child.wait()?;
    ended?;
    let (sha256, bytes) = body.join().map_err(|_| anyhow::anyhow!("hashing panicked"))??;
    let said = said.join().map_err(|_| anyhow::anyhow!("reading curl's errors panicked"))??;
    let (complaint, numbers) = said.trim_end().rsplit_once('\n').unwrap_or((said.as_str(), ""));
    let mut words = numbers.split(' ');
    let mut word = || words.next().unwrap_or_default().to_owned();
    let (code, address, port, seconds) = (word(), word(), word(), word());
    let client = endpoint(&address, &port);
    let complaint = (!status.success()).then(|| complaint.trim().to_owned());
    Ok(Transfer {
        path: path.to_owned(),
        client,
        status: code.parse().unwrap_or(0),
        bytes,
        sha256,
        seconds: seconds.parse().unwrap_or(0.0),
        complaint,
    })
}
