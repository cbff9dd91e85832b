//! A running container: made, entered, looked into, removed.

use super::layout::{self, ROOT, UPPER, WORK};
use super::plan::{self, Pids, Step};
use super::spec::{Program, Spec};
use super::user::User;
use super::{Cgroup, Error, Group, Result, at};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::process::{Pid, Signal};
use rustix::thread::LinkNameSpaceType;
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

/// Docker's PATH where the image sets none.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A running container. Dropped, everything in it is killed and its cgroups and its folder are removed.
#[derive(Debug)]
pub struct Container {
    /// PID 1 of the container as the host numbers it.
    pub pid: u32,
    cgroup: Cgroup,
    /// The container's root, also when its first process has ended.
    root: Option<OwnedFd>,
    first: Mutex<Child>,
    folder: PathBuf,
    base: Base,
}

/// What programs that enter have in common with the first.
#[derive(Debug)]
struct Base {
    env: Vec<String>,
    folder: String,
    capabilities: u64,
    pid_host: bool,
}

impl Container {
    /// Makes one in `group` and starts its first process.
    ///
    /// # Errors
    /// What could not be done; nothing is left behind then.
    pub fn start(group: &Group, mut spec: Spec) -> Result<Self> {
        let cgroup = group.cgroup()?;
        for name in [UPPER, WORK, ROOT] {
            let path = spec.folder.join(name);
            fs::create_dir_all(&path).map_err(at("make", &path))?;
        }
        for (path, content) in &spec.files {
            put(&spec, path, content)?;
        }
        let image = spec.lower.iter().find(|layer| layer.join("etc/passwd").exists()).or(spec.lower.first());
        let user = User::find(image.map_or(Path::new("/nonexistent"), PathBuf::as_path), &spec.program.user)?;
        if spec.hostname.is_empty() {
            spec.hostname = cgroup.id[..12].to_owned();
        }
        let steps = layout::first_process(&cgroup, &mut spec, &user)?;
        let mut argv = spec.program.argv.clone();
        if spec.init.is_some() {
            argv.splice(0..0, ["/sbin/docker-init".to_owned(), "--".to_owned()]);
        }
        let env = environment(&spec.program.env, &spec.hostname);
        let mut command = command(&argv, &env, &user.home)?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let pids = if spec.pid_host { Pids::Host } else { Pids::New };
        let mut first = plan::spawn(steps, command, pids)?;
        swallow(first.stdout.take());
        swallow(first.stderr.take());
        let pid = first.id();
        let root = rustix::fs::open(format!("/proc/{pid}/root"), OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok();
        let base =
            Base { env, folder: spec.program.folder.clone(), capabilities: spec.capabilities, pid_host: spec.pid_host };
        Ok(Self { pid, cgroup, root, first: Mutex::new(first), folder: spec.folder, base })
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.cgroup.id
    }

    /// Starts `program` in it from outside, as a runtime's exec does: into the cgroup first, then into the
    /// namespaces, then the program. `prepare` is given the command for its standard streams.
    ///
    /// # Errors
    /// When the container has ended, or the image lacks program or user.
    pub fn enter(&self, program: &Program, prepare: impl FnOnce(&mut Command)) -> Result<Child> {
        let user = User::find(Path::new(&format!("/proc/{}/root", self.pid)), &program.user)?;
        let mut steps: Vec<Step> = self.cgroup.doors()?.into_iter().map(Step::Join).collect();
        for (name, kind) in [
            ("net", LinkNameSpaceType::Network),
            ("uts", LinkNameSpaceType::HostNameAndNISDomainName),
            ("ipc", LinkNameSpaceType::InterProcessCommunication),
            ("mnt", LinkNameSpaceType::Mount),
        ] {
            steps.push(Step::Enter(self.namespace(name)?, kind));
        }
        let mut env = self.base.env.clone();
        env.extend(program.env.iter().cloned());
        let folder = if program.folder.is_empty() { &self.base.folder } else { &program.folder };
        let program = Program { folder: folder.clone(), ..program.clone() };
        layout::credentials(&program, &user, self.base.capabilities, &mut steps)?;
        let mut command = command(&program.argv, &env, &user.home)?;
        prepare(&mut command);
        let pids = if self.base.pid_host { Pids::Host } else { Pids::Of(self.namespace("pid")?) };
        plan::spawn(steps, command, pids)
    }

    fn namespace(&self, name: &str) -> Result<OwnedFd> {
        let path = PathBuf::from(format!("/proc/{}/ns/{name}", self.pid));
        File::open(&path).map(OwnedFd::from).map_err(at("open", &path))
    }

    /// Whether `path` exists in it, links resolved as the container would.
    pub fn exists(&self, path: &str) -> bool {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        self.root
            .as_ref()
            .is_some_and(|root| rustix::fs::openat2(root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT).is_ok())
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let first = self.first.get_mut().unwrap_or_else(PoisonError::into_inner);
        // Not yet waited for, so the number is still its own.
        if let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) {
            let _ended = rustix::process::kill_process(pid, Signal::KILL);
        }
        let _status = first.wait();
        self.root = None;
        // The cgroup goes with its field; a folder in use by a straggler is removed all the same.
        let _absent = fs::remove_dir_all(&self.folder);
    }
}

/// A text file in the layer that the container writes; its folder looks as the image's does.
fn put(spec: &Spec, path: &str, content: &str) -> Result<()> {
    let target = spec.folder.join(UPPER).join(path.trim_start_matches('/'));
    if let Some(folder) = target.parent() {
        fs::create_dir_all(folder).map_err(at("make", folder))?;
    }
    fs::write(&target, content).map_err(at("write", &target))
}

/// Reads what the first process says, as an engine does for its log, so that it never blocks on it.
fn swallow(stream: Option<impl std::io::Read + Send + 'static>) {
    if let Some(mut stream) = stream {
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while stream.read(&mut buffer).is_ok_and(|n| n > 0) {}
        });
    }
}

fn environment(given: &[String], hostname: &str) -> Vec<String> {
    let mut env = vec![PATH.to_owned(), format!("HOSTNAME={hostname}")];
    env.extend(given.iter().cloned());
    env
}

fn command(argv: &[String], env: &[String], home: &str) -> Result<Command> {
    let (program, arguments) = argv.split_first().ok_or_else(|| Error::Invalid("nothing to run".into()))?;
    let mut command = Command::new(program);
    command.args(arguments).env_clear().env("HOME", home);
    for pair in env {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        command.env(key, value);
    }
    Ok(command)
}
