//! Containers without an engine, made by the runner itself: for machines without Docker, such as the
//! guest of another kernel. A monitor sees the same cgroups, namespaces, overlays and entries as of
//! Docker's; names, images and labels it cannot know, as nobody could tell it.

mod arguments;
mod images;
mod network;

use super::ATTACKER;
use super::container::{Container, Recipe, SLEEP};
use super::house::House;
use super::process::{self, Finished};
use super::runtime::{Runtime, Store as _};
use anyhow::{Context, Result, anyhow, bail};
use arguments::{Net, Wanted};
use bare::{Group, Program, Spec};
pub use images::folder_name;

use images::Images;
use network::Lease;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// A static init that reaps orphans (Debian package tini), as Docker's `--init` uses it.
const INIT: &str = "/usr/bin/tini-static";

/// How long a monitor is given to answer for a container it has just been told of. An engine takes longer
/// to get from a container's cgroup to its first program.
const SETTLE: Duration = Duration::from_millis(300);

/// The runtime; its containers end when it is dropped.
pub struct Bare {
    // Dropped in this order: a parent cgroup can go when its children have.
    running: Mutex<HashMap<String, Arc<Running>>>,
    group: Group,
    addresses: network::Addresses,
    images: Images,
    house: Arc<House>,
}

struct Running {
    container: bare::Container,
    _lease: Option<Lease>,
    volumes: PathBuf,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _absent = fs::remove_dir_all(&self.volumes);
    }
}

impl Bare {
    /// Starts it in `house`: there is nothing to start but a cgroup.
    pub fn start(house: Arc<House>) -> Result<Self> {
        anyhow::ensure!(Path::new(INIT).exists(), "{INIT} is missing (Debian package tini)");
        let root = house.paths().bare();
        for used in ["containers", "volumes"] {
            // Of a run that was killed.
            let _absent = fs::remove_dir_all(root.join(used));
            fs::create_dir_all(root.join(used)).with_context(|| format!("making {}", root.display()))?;
        }
        Ok(Self {
            running: Mutex::default(),
            group: Group::make(house.cgroup_name())?,
            addresses: network::Addresses::default(),
            images: Images::new(root.join("images")),
            house,
        })
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<String, Arc<Running>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, container: &Container) -> Result<Arc<Running>> {
        self.locked().get(&container.id).cloned().ok_or_else(|| anyhow!("container {} is gone", container.id))
    }

    fn spec(&self, recipe: &Recipe, wanted: Wanted, name: &str) -> Result<(Spec, Option<Lease>)> {
        let settings = self.images.settings(&recipe.image)?;
        let argv = match (recipe.entrypoint, settings.entrypoint) {
            (false, _) => SLEEP.map(str::to_owned).to_vec(),
            (true, Some(words)) => words,
            (true, None) => bail!("the image has no entrypoint"),
        };
        let mut env = settings.env;
        env.extend(wanted.env);
        let (network, lease) = self.network(wanted.network)?;
        let root = self.house.paths().bare();
        let mut mounts = wanted.mounts;
        for mount in &mounts {
            if let bare::Source::Bind(folder) = &mount.source
                && !folder.exists()
            {
                // As Docker does for `-v`.
                fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
            }
        }
        for (number, (source, target)) in wanted.volumes.into_iter().enumerate() {
            let source = source.unwrap_or_else(|| number.to_string());
            // The path of an engine's volumes: what lies there is a container's, not the host's.
            let folder = root.join("volumes").join(name).join("volumes").join(source).join("_data");
            fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
            mounts.push(bare::Mount { source: bare::Source::Bind(folder), target, read_only: false });
        }
        let spec = Spec {
            lower: vec![self.images.root(&recipe.image)],
            folder: root.join("containers").join(name),
            mounts,
            network,
            pid_host: wanted.pid_host,
            hostname: wanted.hostname.clone(),
            ipc_host: wanted.ipc_host,
            privileged: wanted.privileged,
            capabilities: wanted.capabilities,
            read_only: wanted.read_only,
            program: Program { argv, env, user: wanted.user, folder: wanted.folder },
            init: (!recipe.entrypoint || wanted.init).then(|| INIT.into()),
            files: files(&wanted.hosts, &wanted.hostname),
        };
        Ok((spec, lease))
    }

    fn network(&self, net: Net) -> Result<(bare::Network, Option<Lease>)> {
        Ok(match net {
            Net::Host => (bare::Network::Namespace(self.house.network().namespace()?), None),
            Net::None => (bare::Network::Namespace(network::alone(&self.house)?), None),
            Net::Bridge => {
                let (namespace, lease) = self.addresses.lease(&self.house)?;
                (bare::Network::Namespace(namespace), Some(lease))
            }
        })
    }
}

impl Runtime for Bare {
    fn refuses(&self, recipe: &Recipe) -> Option<String> {
        if !recipe.copy_as.is_empty() {
            return Some("without an engine nobody knows a container's image".to_owned());
        }
        if recipe.labels.iter().any(|label| label.starts_with("bulkhead.")) {
            return Some("without an engine nobody knows a container's labels".to_owned());
        }
        Wanted::parse(&recipe.engine_args).err().map(|error| format!("without an engine: {error:#}"))
    }

    fn run(&self, recipe: &Recipe) -> Result<Container> {
        let (serial, wanted) = (network::serial(), Wanted::parse(&recipe.engine_args)?);
        let name = format!("c{serial}");
        let volumes = self.house.paths().bare().join("volumes").join(&name);
        let (spec, lease) = self.spec(recipe, wanted, &name)?;
        let addresses = lease.as_ref().map(Lease::addresses).unwrap_or_default();
        let container = bare::Container::start(&self.group, spec)?;
        let (id, pid) = (container.id().to_owned(), container.pid);
        self.locked().insert(id.clone(), Arc::new(Running { container, _lease: lease, volumes }));
        thread::sleep(self.house.patient(SETTLE));
        Ok(Container { id, pid, addresses })
    }

    fn exec(&self, container: &Container, user: &str, script: &str, limit: Duration) -> Result<Finished> {
        let running = self.find(container)?;
        let argv = ["sh", "-c", script].map(str::to_owned).to_vec();
        let program = Program { argv, user: user.to_owned(), ..Program::default() };
        let child = running.container.enter(&program, |command| {
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        })?;
        // The container is not kept by a program in it: its removal ends both.
        drop(running);
        process::attend(child, limit, self.house.interrupt())
    }

    fn exists(&self, container: &Container, path: &str) -> bool {
        self.find(container).is_ok_and(|running| running.container.exists(path))
    }

    fn remove(&self, container: &Container) -> Result<()> {
        let running = self.locked().remove(&container.id);
        drop(running);
        Ok(())
    }

    fn images(&self) -> &dyn super::runtime::Store {
        &self.images
    }

    fn api_socket(&self) -> Option<PathBuf> {
        None
    }
}

/// What an engine puts into every container.
fn files(hosts: &[(String, String)], hostname: &str) -> BTreeMap<String, String> {
    let mut table = format!("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n{ATTACKER}\tattacker\n");
    for (name, address) in hosts {
        table.push_str(&format!("{address}\t{name}\n"));
    }
    [
        ("/etc/hosts", table),
        ("/etc/resolv.conf", format!("nameserver {ATTACKER}\n")),
        ("/etc/hostname", format!("{hostname}\n")),
        ("/.dockerenv", String::new()),
    ]
    .map(|(path, text)| (path.to_owned(), text))
    .into()
}
