//! A node of the lab as a machine of its own: this machine's file system as it is (or another distribution's, in the directory
//! that `BATON_PACKAGES_ROOT` names), over it what is installed there, and a systemd that runs the units as they are. All of it
//! ends with that systemd.

use baton_tests::lab::TestLab;
use netns_lab::command;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::time::{Duration, Instant};

/// Goes into a control group of its own, below which systemd makes the units'. The arguments are where the machine's files
/// are, the group's name, and what comes next.
const GROUP: &str = "set -e
mkdir -p $1/groups
mount -t cgroup2 cgroup2 $1/groups
mkdir $1/groups/$2
echo $$ >$1/groups/$2/cgroup.procs
exec unshare --cgroup --pid --uts --fork --kill-child sh -c \"$3\" sh $1";

/// Makes the root of the file system, and becomes its systemd. Of the system that it finds there it starts nothing but what is
/// needed by the packages' units; what those write to their standard output is in /var/log.
const BOOT: &str = "set -e
root=$1/root system=$1/root/etc/systemd/system
mount -t overlay overlay -o lowerdir=${BATON_PACKAGES_ROOT:-/},upperdir=$1/upper,workdir=$1/work $root
mount -t proc proc $root/proc
mount --rbind /sys $root/sys
mount -t cgroup2 cgroup2 $root/sys/fs/cgroup
mount -t bpf bpf $root/sys/fs/bpf
mount --rbind /dev $root/dev
mount --bind $1/run $root/run
mkdir -p $root${1%/*}
mount --rbind ${1%/*} $root${1%/*}
rm -rf $root/etc/systemd/system/*.wants $root/usr/lib/systemd/system/*.target.wants $root/usr/sbin/policy-rc.d
: >$root/etc/fstab
mkdir -p $system/service.d
printf '[Service]\nStandardOutput=append:/var/log/%%N.log\nStandardError=inherit\n' >$system/service.d/log.conf
exec chroot $root env -i container=lab PATH=$PATH /lib/systemd/systemd --system --unit=basic.target";

/// Whether a system can be booted like this below `dir`; if not, why.
pub(crate) fn can_boot(dir: &Path) -> Result<(), String> {
    let dir = dir.join("trial");
    make_layers(&dir);
    let trials = [
        (
            "no overlay of / with its upper layer",
            "mount -t overlay overlay -o lowerdir=/,upperdir=$1/upper,workdir=$1/work $1/root",
        ),
        (
            "no control groups (version 2) to make some in",
            "mount -t cgroup2 cgroup2 $1/root && mkdir $1/root/baton-$$ && rmdir $1/root/baton-$$",
        ),
    ];
    for (what, script) in trials {
        let words = ["--mount", "--propagation", "private", "sh", "-c", script, "sh", dir.to_str().unwrap()];
        command::run("unshare", &words).map_err(|e| format!("{what} in {}: {e:#}", dir.display()))?;
    }
    Ok(())
}

fn make_layers(dir: &Path) {
    for layer in ["upper", "work", "root", "run"] {
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
    dir: PathBuf,
    group: String,
    /// Has the namespaces, and waits for systemd.
    holder: Child,
}

impl Drop for Host<'_> {
    fn drop(&mut self) {
        let id = self.holder.id();
        // Its systemd, with which all others in the namespace end, and then itself.
        let systemd = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
        if command::run("kill", &["-KILL", systemd.trim()]).is_err() {
            let _ = self.holder.kill();
        }
        let _ = self.holder.wait();
        let remove =
            "mount -t cgroup2 cgroup2 $1/groups && find $1/groups/$2 -depth -type d -exec rmdir {} +";
        let dir = self.dir.to_string_lossy();
        let _ = command::run("unshare", &["--mount", "sh", "-c", remove, "sh", &dir, &self.group]);
    }
}

impl<'a> Host<'a> {
    /// Boots below `dir`, for this process's children on the node.
    pub(crate) fn new(t: &'a TestLab, node: &str, dir: &Path) -> Host<'a> {
        let dir = dir.join(node);
        make_layers(&dir);
        let group = format!("baton-{}-{node}", std::process::id());
        let words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", GROUP, "sh"];
        let more = [dir.to_str().unwrap(), &group, BOOT];
        let holder = t.lab.spawn(node, &[&words[..], &more].concat()).unwrap();
        let mut host = Host { t, node: node.to_owned(), dir, group, holder };
        let until = Instant::now() + Duration::from_secs(60);
        // Before there is a systemd, some versions do nothing for this and call that a success.
        while host.run(&["systemctl", "is-active", "basic.target"]).1.trim() != "active" {
            if host.holder.try_wait().unwrap().is_some() || Instant::now() > until {
                panic!("{node} does not boot: {}", host.said());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        host
    }

    /// What was said until systemd was there.
    fn said(&mut self) -> String {
        let mut said = String::new();
        let _ = self.holder.kill();
        if let Some(stderr) = self.holder.stderr.as_mut() {
            let _ = stderr.read_to_string(&mut said);
        }
        said
    }

    /// This machine's number of a process that has `pid` on the node.
    pub(crate) fn seen_process(&self, pid: &str) -> u32 {
        let namespace = |of: String| fs::read_link(format!("/proc/{of}")).ok();
        let here = namespace(format!("{}/ns/pid_for_children", self.holder.id()));
        let is_it = |id: &u32| {
            let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
            let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
            numbers.and_then(|line| line.split_whitespace().last()) == Some(pid)
                && namespace(format!("{id}/ns/pid")) == here
        };
        let mut all =
            fs::read_dir("/proc").unwrap().filter_map(|e| e.unwrap().file_name().to_str()?.parse().ok());
        all.find(is_it).unwrap_or_else(|| panic!("{} has no process {pid}", self.node))
    }

    /// The words that run a command here.
    fn words(&self, words: &[&str]) -> Vec<String> {
        let holder = self.holder.id();
        let enter = [
            "nsenter".to_owned(),
            format!("--mount=/proc/{holder}/ns/mnt"),
            format!("--pid=/proc/{holder}/ns/pid_for_children"),
            format!("--uts=/proc/{holder}/ns/uts"),
            "chroot".to_owned(),
            self.dir.join("root").to_str().unwrap().to_owned(),
        ];
        enter.into_iter().chain(words.iter().map(|&word| word.to_owned())).collect()
    }

    /// Runs a command to its end, whatever that is.
    pub(crate) fn run(&self, words: &[&str]) -> (bool, String) {
        let words = self.words(words);
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        let output = self.t.lab.exec(&self.node, &words).unwrap();
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
        let words = self.words(&["sh", "-c", &format!("cd /root; {line}")]);
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        self.t.lab.spawn(&self.node, &words).unwrap()
    }

    /// Installs packages as `apt install` is told to in the directory they are in, with what is installed already: what they
    /// depend on is there.
    pub(crate) fn install(&self, dir: &Path, apt: &str) {
        let files = apt.strip_prefix("apt install ").unwrap();
        // The directory is this machine's, and so below the root as well.
        // Without what it sets off elsewhere: the manual's index of the whole machine takes seconds to make.
        let dpkg = "DEBIAN_FRONTEND=noninteractive dpkg --force-unsafe-io --no-triggers --install";
        self.shell(&format!("cd {}; {dpkg} {files}", dir.display()));
    }

    /// Where other hosts see a file below /run of this one.
    pub(crate) fn seen(&self, path: &str) -> String {
        assert!(path.starts_with("/run/"), "{path}");
        format!("{}{path}", self.dir.display())
    }

    /// A file of the installed system.
    pub(crate) fn read(&self, path: &str) -> String {
        self.says(&["cat", path])
    }

    /// Writes a file that only root may read, in a directory that there need not be.
    pub(crate) fn write(&self, path: &str, text: &str) {
        let script = "umask 077; mkdir -p \"${2%/*}\"; printf %s \"$1\" >\"$2\"";
        self.says(&["sh", "-c", script, "sh", text, path]);
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

    /// What systemd knows of a unit.
    pub(crate) fn property(&self, unit: &Unit, name: &str) -> String {
        self.says(&["systemctl", "show", "--property", name, "--value", &unit.name]).trim().to_owned()
    }

    /// What a daemon has logged.
    pub(crate) fn log(&self, unit: &Unit) -> String {
        self.read(&format!("/var/log/{}.log", unit.name))
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
