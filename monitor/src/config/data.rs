//! Lists: images nobody should run, pools, miners, sensitive files, programs by class. Built in
//! from `config/data/`, replaceable and extendable by the configuration.

use super::value::{Cidr, Digest, Domain, Glob, PathPattern};
use super::{Config, ConfigError, error, read};
use monitor_common::header::Reason;
use monitor_common::state;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

const IMAGES: &str = include_str!("../../../config/data/images.toml");
const POOLS: &str = include_str!("../../../config/data/pools.toml");
const MINERS: &str = include_str!("../../../config/data/miners.toml");
const SENSITIVE: &str = include_str!("../../../config/data/sensitive.toml");
const PROGRAMS: &str = include_str!("../../../config/data/programs.toml");

/// How sure the source of an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Confidence {
    /// Named by a published analysis.
    Confirmed,
    /// From second-hand texts.
    Low,
}

/// An entry of the image denylist.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeniedImage {
    /// Glob over repository and tag, below any registry prefix.
    pub image: Glob,
    /// Why, for the alert.
    pub why: String,
    /// How sure.
    pub confidence: Confidence,
    /// Where it is from.
    pub source: String,
}

/// An entry by digest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeniedDigest {
    /// The digest.
    pub digest: Digest,
    /// Why, for the alert.
    pub why: String,
    /// Where it is from.
    pub source: String,
}

/// `images.toml`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ImageList {
    /// By reference.
    pub image: Vec<DeniedImage>,
    /// By digest.
    pub digest: Vec<DeniedDigest>,
}

/// `pools.toml`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PoolList {
    /// Domains that are pools, with everything below them.
    pub domains: Vec<Domain>,
    /// Domains whose bare name is also a web site: only hosts with one of `host_prefixes` count.
    pub mixed_domains: Vec<Domain>,
    /// First labels of mining hosts below `mixed_domains`, alone or with a number or a dash behind.
    pub host_prefixes: Vec<String>,
    /// Ports (context only).
    pub ports: Vec<u16>,
    /// Networks; none are built in.
    pub networks: Vec<Cidr>,
}

/// `miners.toml`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MinerList {
    /// Program names.
    pub names: Vec<String>,
    /// Fragments of command lines.
    pub arguments: Vec<String>,
}

/// `sensitive.toml`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SensitiveList {
    /// `persistence_ssh_key`.
    pub ssh_keys: Vec<PathPattern>,
    /// `persistence_cron`.
    pub cron: Vec<PathPattern>,
    /// `persistence_other`.
    pub other: Vec<PathPattern>,
    /// `escape`.
    pub escape: Vec<PathPattern>,
    /// Told for other findings.
    pub watched: Vec<PathPattern>,
}

/// Class of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// A shell.
    Shell,
    /// Another interpreter.
    Interpreter,
    /// A package manager.
    PackageManager,
    /// Version control, or a language's package manager: what it fetches is trusted, nothing else.
    Fetcher,
    /// A multi-call binary.
    Multicall,
    /// Serves inbound sessions.
    SessionServer,
    /// `-c` introduces program text.
    TextC,
    /// `-e` introduces program text.
    TextE,
    /// `-r` introduces program text.
    TextR,
}

impl Class {
    /// Its `CLASS_*` bit.
    pub const fn bit(self) -> u32 {
        match self {
            Self::Shell => state::CLASS_SHELL,
            Self::Interpreter => state::CLASS_INTERPRETER,
            Self::PackageManager => state::CLASS_PACKAGE_MANAGER,
            Self::Fetcher => state::CLASS_FETCHER,
            Self::Multicall => state::CLASS_MULTICALL,
            Self::SessionServer => state::CLASS_SESSION_SERVER,
            Self::TextC => state::CLASS_FLAG_C,
            Self::TextE => state::CLASS_FLAG_E,
            Self::TextR => state::CLASS_FLAG_R,
        }
    }
}

/// Programs of the same classes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Programs {
    /// Names without version.
    pub names: Vec<String>,
    /// Classes.
    pub class: Vec<Class>,
}

/// `programs.toml`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProgramList {
    /// Groups.
    pub programs: Vec<Programs>,
}

/// All lists.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lists {
    /// Images nobody should run.
    pub images: ImageList,
    /// Pools.
    pub pools: PoolList,
    /// Miners.
    pub miners: MinerList,
    /// Files whose writing is persistence.
    pub sensitive: SensitiveList,
    /// Programs by class.
    pub programs: ProgramList,
}

impl Lists {
    /// Built-in or replaced lists with the configuration's extras. Relative paths start at `folder`.
    ///
    /// # Errors
    /// A named file cannot be read or is not such a list.
    pub fn assemble(config: &Config, folder: &Path) -> Result<Self, ConfigError> {
        let data = &config.data;
        let mut lists = Self {
            images: list(data.images.as_ref(), folder, "images.toml", IMAGES)?,
            pools: list(data.pools.as_ref(), folder, "pools.toml", POOLS)?,
            miners: list(data.miners.as_ref(), folder, "miners.toml", MINERS)?,
            sensitive: list(data.sensitive.as_ref(), folder, "sensitive.toml", SENSITIVE)?,
            programs: list(data.programs.as_ref(), folder, "programs.toml", PROGRAMS)?,
        };
        for file in &config.images.denylist_files {
            let more: ImageList = list(Some(file), folder, "", "")?;
            lists.images.image.extend(more.image);
            lists.images.digest.extend(more.digest);
        }
        lists.extend(config);
        Ok(lists)
    }

    fn extend(&mut self, config: &Config) {
        let why = || "listed in this host's configuration".to_owned();
        let source = || "[images]".to_owned();
        self.images.image.extend(config.images.denylist.iter().map(|image| DeniedImage {
            image: image.clone(),
            why: why(),
            confidence: Confidence::Confirmed,
            source: source(),
        }));
        self.images.digest.extend(config.images.digests.iter().map(|digest| DeniedDigest {
            digest: digest.clone(),
            why: why(),
            source: source(),
        }));
        self.pools.domains.extend(config.miner.pools.iter().cloned());
        self.pools.networks.extend(&config.miner.pool_networks);
        self.pools.ports.extend(&config.miner.ports);
        self.miners.names.extend(config.miner.names.iter().cloned());
        let extra = &config.sensitive;
        self.sensitive.ssh_keys.extend(extra.ssh_keys.iter().cloned());
        self.sensitive.cron.extend(extra.cron.iter().cloned());
        self.sensitive.other.extend(extra.other.iter().cloned());
    }
}

impl PoolList {
    /// Is `host` the name of a pool?
    pub fn is_pool(&self, host: &str) -> bool {
        let first = host.split('.').next().unwrap_or("").to_ascii_lowercase();
        self.domains.iter().any(|d| d.covers(host))
            || (self.host_prefixes.iter().any(|p| begins(&first, p))
                && self.mixed_domains.iter().any(|d| d.covers(host)))
    }
}

/// `stratum`, `stratum-eth`, `pool2`, but not `pooling`.
fn begins(label: &str, prefix: &str) -> bool {
    label.strip_prefix(prefix).is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_alphabetic()))
}

impl SensitiveList {
    /// Every pattern with the reason the kernel half reports it under.
    pub fn patterns(&self) -> impl Iterator<Item = (&PathPattern, Reason)> {
        let groups = [
            (&self.ssh_keys, Reason::PersistenceSshKey),
            (&self.cron, Reason::PersistenceCron),
            (&self.other, Reason::PersistenceOther),
            (&self.escape, Reason::Escape),
            (&self.watched, Reason::Watched),
        ];
        groups.into_iter().flat_map(|(list, reason)| list.iter().map(move |p| (p, reason)))
    }
}

impl ProgramList {
    /// Every name with its `CLASS_*` bits.
    pub fn classes(&self) -> impl Iterator<Item = (&str, u32)> {
        self.programs.iter().flat_map(|group| {
            let bits = group.class.iter().fold(0, |bits, class| bits | class.bit());
            group.names.iter().map(move |name| (name.as_str(), bits))
        })
    }
}

fn list<T: serde::de::DeserializeOwned>(
    replacement: Option<&PathBuf>,
    folder: &Path,
    name: &str,
    builtin: &str,
) -> Result<T, ConfigError> {
    match replacement {
        Some(path) => {
            let path = folder.join(path);
            error::parse(&path, &read(&path)?)
        }
        None => error::parse(Path::new(name), builtin),
    }
}
