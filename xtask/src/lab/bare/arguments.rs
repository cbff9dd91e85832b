//! The `docker run` arguments that scenarios use, for containers made without Docker. An argument that is
//! not known is an error: a container that is not what was asked for proves nothing.

use anyhow::{Context, Result, bail};
use bare::{Mount, Source, Spec};

/// Capabilities that may be added or dropped by name.
const CAPABILITIES: [(&str, u32); 16] = [
    ("CHOWN", 0),
    ("DAC_OVERRIDE", 1),
    ("DAC_READ_SEARCH", 2),
    ("FOWNER", 3),
    ("KILL", 5),
    ("SETGID", 6),
    ("SETUID", 7),
    ("NET_BIND_SERVICE", 10),
    ("NET_ADMIN", 12),
    ("NET_RAW", 13),
    ("SYS_MODULE", 16),
    ("SYS_RAWIO", 17),
    ("SYS_CHROOT", 18),
    ("SYS_PTRACE", 19),
    ("SYS_ADMIN", 21),
    ("MKNOD", 27),
];

/// Options without a meaning here: nothing of the kind is applied to the container either way.
const NEUTRAL: [&str; 16] = [
    "--name",
    "--label",
    "-l",
    "--memory",
    "-m",
    "--cpus",
    "--cpu-shares",
    "--pids-limit",
    "--ulimit",
    "--shm-size",
    "--restart",
    "--cgroupns",
    "--uts",
    "--log-driver",
    "--dns",
    "--stop-timeout",
];

/// Which network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Net {
    /// The lab's bridge.
    #[default]
    Bridge,
    /// The lab's own network namespace: the host's, as far as the lab goes.
    Host,
    /// Loopback only.
    None,
}

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Binds and tmpfs.
    pub mounts: Vec<Mount>,
    /// Volumes: name (none: anonymous) and target.
    pub volumes: Vec<(Option<String>, String)>,
    /// Names and addresses for /etc/hosts.
    pub hosts: Vec<(String, String)>,
    /// Its network.
    pub network: Net,
    /// `--pid host`.
    pub pid_host: bool,
    /// `--ipc host`.
    pub ipc_host: bool,
    /// `--privileged`.
    pub privileged: bool,
    /// Bit by number.
    pub capabilities: u64,
    /// `--read-only`.
    pub read_only: bool,
    /// `--init`.
    pub init: bool,
    /// `--user`.
    pub user: String,
    /// `--hostname`.
    pub hostname: String,
    /// `--env`.
    pub env: Vec<String>,
    /// `--workdir`.
    pub folder: String,
}

impl Wanted {
    /// Reads them.
    pub fn parse(arguments: &[String]) -> Result<Self> {
        let mut wanted = Self {
            mounts: Vec::new(),
            volumes: Vec::new(),
            hosts: Vec::new(),
            network: Net::default(),
            pid_host: false,
            ipc_host: false,
            privileged: false,
            capabilities: Spec::DOCKER_CAPABILITIES,
            read_only: false,
            init: false,
            user: String::new(),
            hostname: String::new(),
            env: Vec::new(),
            folder: String::new(),
        };
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let (name, given) = match argument.split_once('=') {
                Some((name, value)) if name.starts_with("--") => (name, Some(value.to_owned())),
                _ => (argument.as_str(), None),
            };
            if wanted.flag(name, given.as_deref()) {
                continue;
            }
            let value = given.or_else(|| rest.next().cloned()).with_context(|| format!("`{name}` has no value"))?;
            wanted.option(name, &value)?;
        }
        if wanted.privileged {
            wanted.capabilities = u64::MAX;
        }
        Ok(wanted)
    }

    fn flag(&mut self, name: &str, given: Option<&str>) -> bool {
        let on = given != Some("false");
        match name {
            "--privileged" => self.privileged = on,
            "--read-only" => self.read_only = on,
            "--init" => self.init = on,
            "-d" | "--detach" | "-i" | "--interactive" | "--rm" => {}
            _ => return false,
        }
        true
    }

    fn option(&mut self, name: &str, value: &str) -> Result<()> {
        match name {
            "-v" | "--volume" => self.volume(value)?,
            "--mount" => self.mount(value)?,
            "--tmpfs" => {
                let (target, options) = value.split_once(':').unwrap_or((value, ""));
                self.tmpfs(target, options);
            }
            "--add-host" => {
                let (host, address) = value.split_once([':', '=']).context("--add-host is NAME:ADDRESS")?;
                self.hosts.push((host.to_owned(), address.to_owned()));
            }
            "--network" | "--net" => {
                self.network = match value {
                    "host" => Net::Host,
                    "none" => Net::None,
                    "bridge" | "default" => Net::Bridge,
                    other => bail!("`--network {other}` is not supported"),
                }
            }
            "--pid" if value == "host" => self.pid_host = true,
            "--ipc" => self.ipc_host = value == "host",
            "--cap-add" => self.capabilities |= capability(value)?,
            "--cap-drop" => self.capabilities &= !capability(value)?,
            "-u" | "--user" => value.clone_into(&mut self.user),
            "-h" | "--hostname" => value.clone_into(&mut self.hostname),
            "-e" | "--env" => self.env.push(value.to_owned()),
            "-w" | "--workdir" => value.clone_into(&mut self.folder),
            // No seccomp filter and no AppArmor profile is put on in the first place.
            "--security-opt" if value.starts_with("seccomp") || value.starts_with("apparmor") => {}
            _ if NEUTRAL.contains(&name) => {}
            _ => bail!("`{name} {value}` is not supported"),
        }
        Ok(())
    }

    fn volume(&mut self, value: &str) -> Result<()> {
        let parts: Vec<&str> = value.split(':').collect();
        let (source, target, options) = match parts.as_slice() {
            [target] => (None, *target, ""),
            [source, target] => (Some(*source), *target, ""),
            [source, target, options] => (Some(*source), *target, *options),
            _ => bail!("`-v {value}` has too many parts"),
        };
        match source {
            Some(path) if path.starts_with('/') => {
                let read_only = options.split(',').any(|option| option == "ro");
                self.bind(path, target, read_only);
            }
            name => self.volumes.push((name.map(str::to_owned), target.to_owned())),
        }
        Ok(())
    }

    fn mount(&mut self, value: &str) -> Result<()> {
        let (mut kind, mut source, mut target, mut read_only) = ("volume", "", "", false);
        for part in value.split(',') {
            let (key, text) = part.split_once('=').unwrap_or((part, "true"));
            match key {
                "type" => kind = text,
                "source" | "src" => source = text,
                "target" | "destination" | "dst" => target = text,
                "readonly" | "ro" => read_only = text == "true" || text == "1",
                "bind-propagation" | "tmpfs-size" | "tmpfs-mode" => {}
                _ => bail!("`--mount` with `{key}` is not supported"),
            }
        }
        match kind {
            "bind" => self.bind(source, target, read_only),
            "tmpfs" => self.tmpfs(target, ""),
            "volume" => self.volumes.push(((!source.is_empty()).then(|| source.to_owned()), target.to_owned())),
            other => bail!("`--mount type={other}` is not supported"),
        }
        Ok(())
    }

    fn bind(&mut self, source: &str, target: &str, read_only: bool) {
        self.mounts.push(Mount { source: Source::Bind(source.into()), target: target.to_owned(), read_only });
    }

    fn tmpfs(&mut self, target: &str, options: &str) {
        let source = Source::Tmpfs(options.to_owned());
        self.mounts.push(Mount { source, target: target.to_owned(), read_only: false });
    }
}

fn capability(name: &str) -> Result<u64> {
    let name = name.to_uppercase();
    let name = name.trim_start_matches("CAP_");
    if name == "ALL" {
        return Ok(u64::MAX);
    }
    let known = CAPABILITIES.iter().find(|(known, _)| *known == name);
    known.map(|(_, number)| 1 << number).with_context(|| format!("capability {name} is not supported"))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn parse(text: &str) -> Result<Wanted> {
        Wanted::parse(&text.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn what_scenarios_ask_for() {
        let wanted = parse(
            "-v /tmp:/data:ro --mount type=bind,source=/etc,target=/h,readonly --tmpfs /t:exec --network host \
             --pid=host --add-host pool:203.0.113.66 --cap-add SYS_ADMIN --user lab -v named:/n -v /anonymous",
        )
        .unwrap();
        let bind = |source: &str, target: &str| Mount {
            source: Source::Bind(source.into()),
            target: target.into(),
            read_only: true,
        };
        let tmpfs = Mount { source: Source::Tmpfs("exec".into()), target: "/t".into(), read_only: false };
        assert_eq!(wanted.mounts, [bind("/tmp", "/data"), bind("/etc", "/h"), tmpfs]);
        assert_eq!(wanted.volumes, [(Some("named".into()), "/n".into()), (None, "/anonymous".into())]);
        assert_eq!((wanted.network, wanted.pid_host, wanted.user.as_str()), (Net::Host, true, "lab"));
        assert_eq!(wanted.hosts, [("pool".to_owned(), "203.0.113.66".to_owned())]);
        assert_eq!(wanted.capabilities, Spec::DOCKER_CAPABILITIES | 1 << 21);
        assert_eq!(parse("--cap-drop ALL --cap-add kill").unwrap().capabilities, 1 << 5);
        assert_eq!(parse("--privileged").unwrap().capabilities, u64::MAX);
    }

    #[test]
    fn what_is_not_known_is_an_error() {
        for text in ["--device /dev/kvm", "--network lab", "-v", "--runtime x"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
