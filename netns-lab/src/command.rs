//! Running other programs, with errors that say which command failed and what it wrote.

use anyhow::{Context, Result, bail};
use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where system programs live that an ordinary user's PATH may lack.
const SYSTEM_DIRS: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];

/// The full path of a program.
///
/// # Errors
/// When it is neither in PATH nor in the system's directories; the message names the Debian package to install.
pub fn find(program: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .chain(SYSTEM_DIRS.iter().map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|file| file.is_file());
    let package = match program {
        "ip" | "tc" => "iproute2",
        "ab" => "apache2-utils",
        "nsenter" | "mount" | "umount" | "setsid" => "util-linux",
        other => other,
    };
    found.with_context(|| match program {
        "envoy" => {
            "envoy is not installed: Debian has no package of it; put the program of an Envoy release \
                    (https://www.envoyproxy.io/docs/envoy/latest/start/install) into PATH"
                .to_owned()
        }
        _ => format!("{program} is not installed (apt-get install {package})"),
    })
}

/// The full path of a program of this workspace: in BATON_BIN_DIR, else beside this executable, or one folder up (tests are
/// in deps/).
///
/// # Errors
/// When it is not there.
pub fn built(program: &str) -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("BATON_BIN_DIR") {
        let path = PathBuf::from(dir).join(program);
        return if path.is_file() {
            Ok(path)
        } else {
            bail!("BATON_BIN_DIR has no {program}: {}", path.display())
        };
    }
    let own = std::env::current_exe().context("cannot find out where this program is")?;
    let mut beside = own.ancestors().skip(1).take(2).map(|dir| dir.join(program));
    beside.find(|path| path.is_file()).with_context(|| {
        let dir = own.parent().unwrap_or(Path::new("/"));
        format!(
            "{program} is not in {}; build it (cargo build --workspace) or set BATON_BIN_DIR",
            dir.display()
        )
    })
}

/// The command as one would type it.
pub fn shown(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|a| a.to_string_lossy().into_owned()));
    words.join(" ")
}

/// Runs a short command to its end and gives back what it wrote to its standard output.
///
/// It runs in a process group of its own, so that a Ctrl-C does not end it half-way: the lab notes the signal, and the
/// commands that clean up must not be hit by a second one.
///
/// # Errors
/// When it cannot be started or ends with another code than 0: the command and its standard error.
pub fn run<S: AsRef<OsStr>>(program: &str, args: &[S]) -> Result<String> {
    let mut command = Command::new(find(program)?);
    command.args(args).stdin(Stdio::null()).process_group(0);
    let output = command.output().with_context(|| format!("cannot start `{}`", shown(&command)))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`{}` failed ({}): {}", shown(&command), output.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// `ip WORDS...`, the words separated by spaces.
///
/// # Errors
/// As [`run`].
pub fn ip(words: &str) -> Result<String> {
    run("ip", &words.split_whitespace().collect::<Vec<_>>())
}

/// A command that runs inside a network namespace. `nsenter` and not `ip netns exec`: the latter gives the program a new
/// /sys and thereby hides bpffs and the lab's mounts.
///
/// # Errors
/// When nsenter is not installed.
pub fn inside(netns: &Path, program: impl AsRef<OsStr>) -> Result<Command> {
    let mut command = Command::new(find("nsenter")?);
    let mut net = std::ffi::OsString::from("--net=");
    net.push(netns);
    command.arg(net).arg("--").arg(program);
    Ok(command)
}
