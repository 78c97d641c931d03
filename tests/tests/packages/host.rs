//! A node of the lab with a file system of its own: this machine's as it is, and over it what is installed there. What
//! is mounted ends with the process that holds it.

use baton_tests::lab::TestLab;
use netns_lab::command;
use std::cell::RefCell;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};

/// Makes the root of the file system; the arguments are the layers and where.
const MOUNTS: &str = "set -e
mount -t overlay overlay -o lowerdir=/,upperdir=$1/upper,workdir=$1/work $1/root
mount --rbind /proc $1/root/proc
mount --rbind /sys $1/root/sys
mount --rbind /dev $1/root/dev
mount -t bpf bpf $1/root/sys/fs/bpf
mount -t tmpfs tmpfs $1/root/run
echo mounted
exec sleep infinity";

/// Whether such a root can be made of layers below `dir`; if not, why.
pub(crate) fn can_be_layered(dir: &Path) -> Result<(), String> {
    let dir = dir.join("trial");
    make_layers(&dir);
    let script = "mount -t overlay overlay -o lowerdir=/,upperdir=$1/upper,workdir=$1/work $1/root";
    let words = ["--mount", "--propagation", "private", "sh", "-c", script, "sh", dir.to_str().unwrap()];
    let mounted = command::run("unshare", &words);
    mounted.map(drop).map_err(|e| format!("no overlay of / with its upper layer in {}: {e:#}", dir.display()))
}

fn make_layers(dir: &Path) {
    for layer in ["upper", "work", "root"] {
        fs::create_dir_all(dir.join(layer)).unwrap();
    }
}

/// What the unit of a daemon says.
pub(crate) struct Unit {
    pub(crate) name: String,
    text: String,
}

impl Unit {
    /// From its text.
    pub(crate) fn new(name: &str, text: String) -> Unit {
        Unit { name: name.to_owned(), text }
    }

    /// The values of a key.
    pub(crate) fn values(&self, key: &str) -> Vec<&str> {
        let lines = self.text.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        lines.flat_map(str::split_whitespace).collect()
    }
}

/// The node.
pub(crate) struct Host<'a> {
    t: &'a TestLab,
    node: String,
    holder: u32,
    root: PathBuf,
    /// The daemons, and the holder first.
    processes: RefCell<Vec<Child>>,
}

impl Drop for Host<'_> {
    fn drop(&mut self) {
        for process in self.processes.get_mut().iter_mut().rev() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl<'a> Host<'a> {
    /// Mounts below `dir`, for this process's children on the node.
    pub(crate) fn new(t: &'a TestLab, node: &str, dir: &Path) -> Host<'a> {
        let dir = dir.join(node);
        make_layers(&dir);
        let words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", MOUNTS, "sh"];
        let mut child = t.lab.spawn(node, &[&words[..], &[dir.to_str().unwrap()]].concat()).unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        if line != "mounted\n" {
            let mut said = String::new();
            child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
            panic!("{node}: {said}");
        }
        let (holder, processes) = (child.id(), RefCell::new(vec![child]));
        Host { t, node: node.to_owned(), holder, root: dir.join("root"), processes }
    }

    /// The words that run a command here.
    fn words<'w>(&'w self, holder: &'w str, words: &[&'w str]) -> Vec<&'w str> {
        let enter = ["nsenter", "--target", holder, "--mount", "chroot", self.root.to_str().unwrap()];
        [&enter[..], words].concat()
    }

    /// Runs a command to its end, whatever that is.
    pub(crate) fn run(&self, words: &[&str]) -> (bool, String) {
        let holder = self.holder.to_string();
        let output = self.t.lab.exec(&self.node, &self.words(&holder, words)).unwrap();
        let Output { status, stdout, stderr } = output;
        let text = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        (status.success(), text)
    }

    /// What a command says, which must succeed.
    pub(crate) fn says(&self, words: &[&str]) -> String {
        let (ok, text) = self.run(words);
        assert!(ok, "{} on {}: {text}", words.join(" "), self.node);
        text
    }

    /// What a shell says to a line, in its own directory, which must succeed.
    pub(crate) fn shell(&self, line: &str) -> String {
        self.says(&["sh", "-c", &format!("cd /root; {line}")])
    }

    /// A shell that does a line and goes on meanwhile.
    pub(crate) fn begin(&self, line: &str) -> Child {
        let holder = self.holder.to_string();
        let line = format!("cd /root; {line}");
        self.t.lab.spawn(&self.node, &self.words(&holder, &["sh", "-c", &line])).unwrap()
    }

    /// Installs packages as `apt install` is told to in the directory they are in, with what is installed already: what they
    /// depend on is there.
    pub(crate) fn install(&self, dir: &Path, apt: &str) {
        let files = apt.strip_prefix("apt install ").unwrap();
        // The directory is this machine's, and so below the root as well.
        let dpkg = "DEBIAN_FRONTEND=noninteractive dpkg --force-unsafe-io --install";
        self.shell(&format!("cd {}; {dpkg} {files}", dir.display()));
    }

    /// Where another host sees a file of this one.
    pub(crate) fn seen(&self, path: &str) -> String {
        format!("/proc/{}/root{}{path}", self.holder, self.root.display())
    }

    /// A file of the installed system.
    pub(crate) fn read(&self, path: &str) -> String {
        self.says(&["cat", path])
    }

    /// Writes a file that only root may read.
    pub(crate) fn write(&self, path: &str, text: &str) {
        self.says(&["sh", "-c", "umask 077; printf %s \"$1\" >\"$2\"", "sh", text, path]);
    }

    /// Replaces words in a file, as one would with an editor.
    pub(crate) fn edit(&self, path: &str, changes: &[(&str, String)]) {
        let mut text = self.read(path);
        for (old, new) in changes {
            assert!(text.contains(old), "{path} has no {old}");
            text = text.replace(old, new);
        }
        self.write(path, &text);
    }

    /// The unit of a daemon.
    pub(crate) fn unit(&self, name: &str) -> Unit {
        Unit::new(name, self.read(&format!("/usr/lib/systemd/system/{name}.service")))
    }

    /// Starts a daemon as its unit says, with no more capabilities. It ends with this value.
    pub(crate) fn start(&self, unit: &Unit) {
        let bounds = unit.values("CapabilityBoundingSet");
        let bounds: Vec<_> = bounds.iter().map(|c| c.strip_prefix("CAP_").unwrap().to_lowercase()).collect();
        let bounds = format!("--bounding-set=-all,+{}", bounds.join(",+"));
        let log = format!("exec \"$@\" >>/tmp/{}.log 2>&1", unit.name);
        let before = ["setpriv", &bounds, "--no-new-privs", "sh", "-c", &log, "sh"];
        let holder = self.holder.to_string();
        let words = self.words(&holder, &[&before[..], &unit.values("ExecStart")].concat());
        self.processes.borrow_mut().push(self.t.lab.spawn(&self.node, &words).unwrap());
    }

    /// What a daemon has logged.
    pub(crate) fn log(&self, unit: &Unit) -> String {
        self.read(&format!("/tmp/{}.log", unit.name))
    }
}

/// Makes the packages, of the programs beside this one and by the repository's own script.
pub(crate) fn packages(dir: &Path) -> PathBuf {
    let (stripped, out) = (dir.join("programs"), dir.join("packages"));
    fs::create_dir_all(&stripped).unwrap();
    for program in ["intermediate", "target-agent", "baton"] {
        let (from, to) = (command::built(program).unwrap(), stripped.join(program));
        command::run("strip", &["-o", to.to_str().unwrap(), from.to_str().unwrap()]).unwrap();
    }
    let mut script = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../package.sh"));
    script.arg("--fast").arg("--binaries").arg(&stripped).arg("--out").arg(&out);
    let output = script.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let files: Vec<PathBuf> = text.lines().map(PathBuf::from).collect();
    assert_eq!(files.len(), 3, "{text}");
    out
}
