//! Containers without an engine: a cgroup as a runtime makes it, namespaces, and an overlay over the
//! host's root whose upper layer is memory. All mounts live in the container's own mount namespace, so
//! they go with its last process; the cgroups are removed on drop.

use crate::pace;
use anyhow::{Context, Result, bail, ensure};
use monitor::container::hierarchy;
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::net::{TcpListener, UdpSocket};
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// Folders of ours in a cgroup hierarchy start so; the maker's pid follows.
const PREFIX: &str = "docker-test-";
/// How long the daemon is given to answer for a container it has just been told of, before the test
/// attacks in it. An engine's container takes longer to get to its first attack.
const SETTLE: Duration = Duration::from_millis(300);

static SERIAL: AtomicU32 = AtomicU32::new(0);

/// A parent cgroup for one test's containers; what the test's daemon has in its scope.
pub struct Group {
    name: String,
    folders: Vec<PathBuf>,
}

impl Group {
    /// Makes it in the hierarchy by which containers are told here, in the freezer's, and in the unified one.
    pub fn make() -> Result<Self> {
        Self::make_in(&mounts()?)
    }

    /// Makes it in these hierarchies only.
    pub fn make_in(mounts: &[PathBuf]) -> Result<Self> {
        let name = format!("{PREFIX}{}-{}", std::process::id(), SERIAL.fetch_add(1, Ordering::Relaxed));
        let mut group = Self { name, folders: Vec::new() };
        for mount in mounts {
            let folder = mount.join(&group.name);
            fs::create_dir(&folder).with_context(|| format!("make {}", folder.display()))?;
            group.folders.push(folder);
        }
        Ok(group)
    }

    /// Its path in a hierarchy, as the config's scope wants it.
    pub fn path(&self) -> String {
        format!("/{}", self.name)
    }

    /// Moves a process of the host into it.
    pub fn join(&self, pid: u32) -> Result<()> {
        self.folders.iter().try_for_each(|folder| {
            fs::write(folder.join("cgroup.procs"), pid.to_string())
                .with_context(|| format!("join {}", folder.display()))
        })
    }

    /// Moves a process out of it, to where the tests themselves are.
    pub fn leave(&self, pid: u32) -> Result<()> {
        let ours = fs::read_to_string("/proc/self/cgroup").context("read our own cgroups")?;
        let us = std::process::id().to_string();
        for mount in self.folders.iter().filter_map(|folder| folder.parent()) {
            let mut places = ours.lines().filter_map(|line| line.splitn(3, ':').nth(2));
            let place = places.find_map(|path| {
                let members = mount.join(path.trim_start_matches('/')).join("cgroup.procs");
                fs::read_to_string(&members).is_ok_and(|text| text.lines().any(|line| line == us)).then_some(members)
            });
            let place = place.with_context(|| format!("no cgroup of ours in {}", mount.display()))?;
            fs::write(&place, pid.to_string()).with_context(|| format!("move it to {}", place.display()))?;
        }
        Ok(())
    }

    /// Lets what is in it run.
    pub fn thaw(&self) {
        self.folders.iter().for_each(|folder| thaw(folder));
    }

    /// Only the cgroup of a container, in it.
    pub fn cgroup(&self) -> Result<Cgroup> {
        self.cgroup_at("ID")
    }

    /// The same where a runtime would put it: `layout` is a path with `ID` for the container's id.
    pub fn cgroup_at(&self, layout: &str) -> Result<Cgroup> {
        let id = container_id();
        let mut cgroup = Cgroup { folders: Vec::new(), above: Vec::new(), id };
        let path = layout.replace("ID", &cgroup.id);
        for parent in &self.folders {
            let mut folder = parent.clone();
            let mut made = Vec::new();
            for component in path.split('/') {
                folder.push(component);
                if !folder.exists() {
                    fs::create_dir(&folder).with_context(|| format!("make {}", folder.display()))?;
                    made.insert(0, folder.clone());
                }
            }
            cgroup.folders.push(folder);
            cgroup.above.extend(made.into_iter().skip(1));
        }
        Ok(cgroup)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        remove_all(&self.folders);
    }
}

/// A container's cgroups.
pub struct Cgroup {
    /// 64 hex digits.
    pub id: String,
    folders: Vec<PathBuf>,
    /// Made on the way to them, innermost first.
    above: Vec<PathBuf>,
}

impl Cgroup {
    /// Shell redirections that open the membership files as descriptors from 7 on, and the commands that
    /// join by them.
    fn redirections(&self) -> (String, String) {
        let mut open = String::from("exec");
        let (mut join, mut close) = (String::from(":"), String::from("exec"));
        for (fd, folder) in (7..).zip(&self.folders) {
            open.push_str(&format!(" {fd}>{}", folder.join("cgroup.procs").display()));
            join.push_str(&format!("; echo 0 >&{fd}"));
            close.push_str(&format!(" {fd}>&-"));
        }
        (open, format!("{join}; {close}"))
    }

    /// A command whose process joins the cgroup, then executes `argv` in the harness's namespaces.
    pub fn command(&self, argv: &[&str]) -> Command {
        let (open, join) = self.redirections();
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{open}; {join}; exec \"$@\""), "sh"]).args(argv);
        command
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        self.folders.iter().for_each(|folder| thaw(folder));
        remove_all(&self.folders);
        remove_all(&self.above);
    }
}

/// A running container.
pub struct Container {
    cgroup: Cgroup,
    unshare: Child,
    init: u32,
    scratch: tempfile::TempDir,
}

impl Container {
    /// Starts one whose first process sleeps, and lets the daemon take note of it.
    pub fn start(group: &Group) -> Result<Self> {
        Self::start_with(group, None)
    }

    /// As [`Self::start`]; a folder of the host is mounted at `/mnt`, as by `docker run -v FOLDER:/mnt`.
    pub fn start_with(group: &Group, host_folder: Option<&Path>) -> Result<Self> {
        Self::make(group, host_folder, &["--pid"])
    }

    /// The same, seeing the host's processes, as by `docker run --pid=host --privileged`.
    pub fn start_on_host_pids(group: &Group, host_folder: &Path) -> Result<Self> {
        Self::make(group, Some(host_folder), &[])
    }

    /// With this command as its first process.
    pub fn start_as(group: &Group, init: &str) -> Result<Self> {
        Self::make_with(group, None, &["--pid"], init)
    }

    fn make(group: &Group, host_folder: Option<&Path>, namespaces: &[&str]) -> Result<Self> {
        Self::make_with(group, host_folder, namespaces, "sleep infinity")
    }

    fn make_with(group: &Group, host_folder: Option<&Path>, namespaces: &[&str], init: &str) -> Result<Self> {
        let cgroup = group.cgroup()?;
        let scratch = tempfile::tempdir().context("make a scratch folder")?;
        let (open, join) = cgroup.redirections();
        let script = SETUP.replace("@OPEN@", &open).replace("@JOIN@", &join).replace("@INIT@", init);
        let mut unshare = Command::new("unshare");
        unshare
            .args(namespaces)
            .args(["--mount", "--net", "--uts", "--ipc", "--fork", "--kill-child", "--propagation", "private"])
            .args(["sh", "-c", &script, "sh"])
            .arg(scratch.path())
            .arg(host_folder.unwrap_or(Path::new("")))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(scratch.path().join("stderr")).context("create a log")?);
        let mut unshare = end_with_us(&mut unshare).spawn().context("start unshare")?;
        let mut line = String::new();
        if let Some(stdout) = unshare.stdout.take() {
            BufReader::new(stdout).read_line(&mut line).context("wait for the container")?;
        }
        let init = child_of(unshare.id());
        let container = Self { cgroup, unshare, init: init.unwrap_or(0), scratch };
        let said = fs::read_to_string(container.scratch.path().join("stderr")).unwrap_or_default();
        ensure!(line.trim() == "ready" && container.init != 0, "the container did not come up: {said}");
        std::thread::sleep(pace::wait(SETTLE));
        Ok(container)
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.cgroup.id
    }

    /// Starts `sh -c script` inside, as a runtime's exec does.
    pub fn spawn(&self, script: &str) -> Result<Child> {
        let (_, join) = self.cgroup.redirections();
        self.enter(&format!("{join}; exec \"$@\""), script)
    }

    /// Starts a script in the container's namespaces but outside its cgroup: `(enter; exec PROGRAM)` in it starts
    /// a program inside as a runtime's exec does, a thousand of them faster than with [`Self::spawn`].
    pub fn spawn_beside(&self, script: &str) -> Result<Child> {
        let (_, join) = self.cgroup.redirections();
        self.enter(&format!("enter() {{ {join}; }}; eval \"$3\""), script)
    }

    fn enter(&self, inner: &str, script: &str) -> Result<Child> {
        let (open, _) = self.cgroup.redirections();
        let outer = format!(
            "{open}; exec nsenter --target {} --mount --net --pid --uts --ipc -- /bin/sh -c '{inner}' sh \"$@\"",
            self.init
        );
        Command::new("sh")
            .args(["-c", &outer, "sh", "sh", "-c", script])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("start nsenter")
    }

    /// Runs `sh -c script` inside; the status tells also of a signal.
    pub fn run(&self, script: &str) -> Result<ExitStatus> {
        wait(self.spawn(script)?, pace::wait(Duration::from_secs(20)))
            .with_context(|| format!("run in the container: {script}"))
    }

    /// Its first process.
    pub fn init(&self) -> u32 {
        self.init
    }

    /// Where a path of the container is to be found from outside.
    pub fn path(&self, path: &str) -> PathBuf {
        Path::new("/proc").join(self.init.to_string()).join("root").join(path.trim_start_matches('/'))
    }

    /// A listener on the container's own loopback, held by the harness, outside the container.
    pub fn listen(&self) -> Result<TcpListener> {
        self.in_network(|| TcpListener::bind("127.0.0.1:0").context("listen"))
    }

    /// The same for datagrams; it does not wait for any.
    pub fn listen_udp(&self) -> Result<UdpSocket> {
        let socket = self.in_network(|| UdpSocket::bind("127.0.0.1:0").context("bind"))?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    }

    /// Makes a socket in the container's network namespace.
    fn in_network<T: Send + 'static>(&self, make: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        let namespace = File::open(format!("/proc/{}/ns/net", self.init)).context("open the network namespace")?;
        // setns(2) moves the calling thread only; the socket stays where it was made.
        let thread = std::thread::spawn(move || -> Result<T> {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).context("enter it")?;
            make()
        });
        thread.join().map_err(|_| anyhow::anyhow!("the listening thread panicked"))?
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        self.cgroup.folders.iter().for_each(|folder| thaw(folder));
        if let Some(pid) = i32::try_from(self.init).ok().and_then(Pid::from_raw) {
            // The init of a pid namespace takes everything in it along.
            let _ = kill_process(pid, Signal::KILL);
        }
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
        // In the host's pid namespace it does not.
        self.cgroup.folders.iter().for_each(|folder| kill_members(folder));
    }
}

/// Made outside the cgroup, as by a runtime; only the last exec is the container's own.
const SETUP: &str = r#"
set -e
s=$1
mount -t tmpfs tmpfs "$s"
mkdir "$s/upper" "$s/work" "$s/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$s/upper,workdir=$s/work" "$s/root"
cd "$s/root"
mount -t proc proc proc
mount -t tmpfs tmpfs dev
for node in null zero full random urandom tty; do : > dev/$node; mount --bind /dev/$node dev/$node; done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
[ -z "$2" ] || mount --rbind "$2" mnt
ip link set lo up
@OPEN@
mkdir -p .old
pivot_root . .old
cd /
umount -l /.old
@JOIN@
echo ready
exec @INIT@
"#;

/// Lets the kernel kill the process when the thread that starts it ends, so that nothing outlives tests
/// that were killed. Every test waits in its thread for what it has started.
pub fn end_with_us(command: &mut Command) -> &mut Command {
    // SAFETY: between fork and exec only prctl(2) is called, which touches nothing but the new process.
    unsafe { command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?)) }
}

/// Waits for a process with a limit; it is killed when the time is up.
pub fn wait(mut child: Child, limit: Duration) -> Result<ExitStatus> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait().context("wait for the process")? {
            return Ok(status);
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            bail!("not finished after {limit:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Lets everything below a cgroup of ours run again: what is frozen cannot end.
fn thaw(folder: &Path) {
    for (file, word) in [("cgroup.freeze", "0"), ("freezer.state", "THAWED")] {
        let path = folder.join(file);
        if path.exists()
            && let Err(error) = fs::write(&path, word)
        {
            eprintln!("{} cannot be thawed: {error}", folder.display());
        }
    }
    for inner in fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
        if inner.is_dir() {
            thaw(&inner);
        }
    }
}

/// Removes what an earlier run of these tests left behind because it was killed.
pub fn sweep() -> Result<()> {
    for mount in mounts()? {
        let entries = fs::read_dir(&mount).with_context(|| format!("list {}", mount.display()))?;
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let maker = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
            if maker.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
                thaw(&entry.path());
                let inner = fs::read_dir(entry.path()).into_iter().flatten().flatten();
                let folders: Vec<PathBuf> = inner.map(|e| e.path()).filter(|p| p.is_dir()).collect();
                remove_all(&folders);
                remove_all(&[entry.path()]);
            }
        }
    }
    Ok(())
}

/// The hierarchies containers are made in: the one they are told by, the freezer's, the unified one.
pub fn mounts() -> Result<Vec<PathBuf>> {
    let watched = hierarchy::detect()?.mount;
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").context("read the mounts")?;
    let others = [hierarchy::v1(&mountinfo, "freezer"), hierarchy::unified(&mountinfo)];
    let others = others.into_iter().flatten().filter(|mount| *mount != watched);
    Ok(std::iter::once(watched.clone()).chain(others).collect())
}

fn container_id() -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    format!("7e57{:08x}{serial:08x}{:044x}", std::process::id(), now.as_nanos())
}

fn child_of(pid: u32) -> Option<u32> {
    fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?.split_whitespace().next()?.parse().ok()
}

/// A process that has just ended may be counted in for a moment; one that hangs on is killed.
fn remove_all(folders: &[PathBuf]) {
    for folder in folders {
        for attempt in 0..200 {
            match fs::remove_dir(folder) {
                Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => {
                    if attempt == 100 {
                        kill_members(folder);
                    }
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    eprintln!("{} is left behind: {error}", folder.display());
                    break;
                }
                _ => break,
            }
        }
    }
}

/// Only ever a cgroup of ours: nothing else is in it than what these tests started.
fn kill_members(folder: &Path) {
    for pid in fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default().lines() {
        if let Some(pid) = pid.parse().ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}
