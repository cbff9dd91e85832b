#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::finding::{Action, FindingKind};
use monitor_common::hash;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(Path::new("config/x.toml"), text)
}

fn error(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

#[test]
fn an_empty_file_is_the_default() {
    assert_eq!(parse("").unwrap(), Config::default());
}

#[test]
fn a_file_as_the_scenario_runner_writes_it() {
    let text = r#"
mode = "protect"
[output]
format = "json"
file = "/tmp/x/alerts.jsonl"
[engine]
docker_socket = "/tmp/x/docker.sock"
[control]
socket = "/tmp/x/control.sock"
[scope]
cgroups = ["/bulkhead-lab-17"]
[host]
watch = true
"#;
    let config = parse(text).unwrap();
    assert_eq!(config.mode, Mode::Protect);
    assert_eq!(config.output.format, Format::Json);
    assert!(config.scope.cgroups[0].covers("/bulkhead-lab-17/abc"));
    assert!(!config.scope.cgroups[0].covers("/bulkhead-lab-170/abc"));
}

#[test]
fn errors_name_file_line_and_key() {
    let cases = [
        (
            "\n[actions]\nminer = \"kil\"\n",
            "config/x.toml:3: actions.miner: unknown action `kil`, expected one of alert, deny, kill, freeze, quarantine, stop",
        ),
        ("mode = \"prevent\"", "config/x.toml:1: mode: unknown mode `prevent`, expected one of off, monitor, protect"),
        ("\n\nmod = \"monitor\"", "config/x.toml:3: mod: unknown key `mod`, expected one of mode, "),
        ("[output]\n\nfiles = \"x\"\n", "config/x.toml:3: output.files: unknown key `files`"),
        ("[output]\nkeep = \"x\"\n", "config/x.toml:2: output.keep: invalid type: string \"x\""),
        ("[host]\nwatch = 1\n", "config/x.toml:2: host.watch: invalid type: integer `1`"),
        ("[output]\nkeep = -1\n", "config/x.toml:2: output.keep: invalid value: integer `-1`"),
        (
            "[[image]]\nmatch = \"a/*\"\nmode = \"off\"\n[[image]]\nmode = \"off\"\nmatch = \"a[\"\n",
            "config/x.toml:6: image[1].match: `a[` is not a glob: ",
        ),
        ("[[image]]\nmode = \"off\"\n", "config/x.toml:1: image[0]: missing key `match`"),
        (
            "[miner]\npool_networks = [\n  \"10.0.0.0/8\",\n  \"10.0.0.0/33\",\n]\n",
            "config/x.toml:4: miner.pool_networks[1]: `10.0.0.0/33` is not a network (CIDR): ",
        ),
        (
            "[miner]\npool_networks = [\"10.1.0.0/8\"]\n",
            "config/x.toml:2: miner.pool_networks[0]: `10.1.0.0/8` is not a network (CIDR): host bits are set, the network is 10.0.0.0/8",
        ),
        ("[miner]\npools = [\"com\"]\n", "config/x.toml:2: miner.pools[0]: `com` is not a domain: "),
        ("[miner]\nports = [70000]\n", "config/x.toml:2: miner.ports[0]: invalid value"),
        (
            "on_daemon_exit = \"stay\"",
            "config/x.toml:1: on_daemon_exit: unknown value `stay`, expected `keep` or `release`",
        ),
        ("[baseline]\nfolder = \"b\"\n", "config/x.toml:2: baseline.folder: the path is not absolute"),
        (
            "[baseline]\npromote = \"monitor\"\npromote_quiet_s = 89\n",
            "config/x.toml:3: baseline.promote_quiet_s: it is less than baseline.settle_s and baseline.write_s together: what \
             was seen last is not learned yet",
        ),
        ("[baseline]\nwrite_s = 0\n", "config/x.toml:2: baseline.write_s: it must be at least 1"),
        (
            "[baseline]\ndrift = \"kill\"\n",
            "config/x.toml:2: baseline.drift: unknown value `kill`, expected `learned` or `deny`",
        ),
        ("[pins]\nroot = \"bpf\"\n", "config/x.toml:2: pins.root: the path is not absolute"),
        ("[pins]\nheartbeat_limit_s = 2\n", "config/x.toml:2: pins.heartbeat_limit_s: it must be at least 3"),
        (
            "[output]\nfile = \"/a\"\nevents = \"/a\"\n",
            "config/x.toml:3: output.events: it is the same file as output.file",
        ),
        ("[miner]\nports = [0]\n", "config/x.toml:2: miner.ports: 0 is not a port"),
        ("[miner]\nalert_score = 0\n", "config/x.toml:2: miner.alert_score: 0 is not between"),
        ("[miner]\nalert_score = 95\n", "config/x.toml:1: miner.kill_score: 90 is below miner.alert_score (95)"),
        (
            "[miner]\nalert_score = 50\nkill_score = 40\n",
            "config/x.toml:3: miner.kill_score: 40 is below miner.alert_score (50)",
        ),
        ("[images]\ndigests = [\"md5:1\"]\n", "config/x.toml:2: images.digests[0]: `md5:1` is not"),
        ("[sensitive]\ncron = [\"a*/b\"]\n", "config/x.toml:2: sensitive.cron[0]: `a*/b` is not"),
        ("[scope]\ncgroups = [\"docker\"]\n", "config/x.toml:2: scope.cgroups[0]: `docker` is not"),
        ("[[exception]]\nkinds = [\"miner\"]\n", "config/x.toml:1: exception[0]: missing key `reason`"),
        (
            "[[exception]]\nkinds = [\"mine\"]\nreason = \"r\"\n",
            "config/x.toml:2: exception[0].kinds[0]: unknown value `mine`, expected one of miner, ",
        ),
        (
            "[[exception]]\nkinds = [\"miner\"]\nreason = \"r\"\n",
            "config/x.toml:2: exception[0].kinds: it would silence the kind everywhere: ",
        ),
        (
            "[[exception]]\nkinds = [\"miner\"]\nreason = \"r\"\nport = 80\n",
            "config/x.toml:2: exception[0].kinds: it would silence the kind everywhere: ",
        ),
        (
            "[[exception]]\nkinds = [\"miner\"]\nimage = \"a\"\nreason = \"r\"\n[[exception]]\nkinds = [\"ioc\"]\nimage = \"a\"\nreason = \" \"\n",
            "config/x.toml:8: exception[1].reason: it is empty",
        ),
        (
            "[[exception]]\nkinds = [\"miner\"]\nreason = \"r\"\nimage = \"**\"\n",
            "config/x.toml:4: exception[0].image: `**` matches everything",
        ),
        (
            "[[exception]]\nkinds = [\"miner\"]\nreason = \"r\"\nexe = \"?*\"\n",
            "config/x.toml:4: exception[0].exe: `?*` matches everything",
        ),
        (
            "[[exception]]\nkinds = [\"miner\"]\nreason = \"r\"\ndestination = \"::/0\"\n",
            "config/x.toml:4: exception[0].destination: it is every address",
        ),
        (
            "[[exception]]\nkinds = [\"miner\"]\nreason = \"r\"\ndestination = \"pool.example\"\n",
            "config/x.toml:4: exception[0].destination: `pool.example` is not a network",
        ),
        (
            "[[exception]]\nkinds = [\"tamper\"]\nreason = \"r\"\nimage = \"a\"\n",
            "config/x.toml:2: exception[0].kinds: `tamper` is about Bulkhead itself",
        ),
        (
            "[[exception]]\nkinds = [\"miner\"]\nreason = \"r\"\nimage = \"a\"\nexpires = \"2026-02-30\"\n",
            "config/x.toml:5: exception[0].expires: `2026-02-30` is not a day",
        ),
        (
            "[[exception]]\nkinds = [\"miner\"]\nreason = \"r\"\nimage = \"a\"\nuntil = \"2026-02-20\"\n",
            "config/x.toml:5: exception[0].until: unknown key `until`",
        ),
        (
            "[[exception]]\nkinds = [\"miner\", \"reverse_shell\"]\nreason = \"r\"\nexe = \"/bin/bash\"\n",
            "config/x.toml:2: exception[0].kinds: `reverse_shell` is stopped in the kernel",
        ),
        ("[output]\nmax_bytes = 1\n", "config/x.toml:2: output.max_bytes: it must be"),
        ("[control]\nsocket = \"x\"\n", "config/x.toml:2: control.socket: the path is not absolute"),
    ];
    for (text, start) in cases {
        let message = error(text);
        assert!(message.starts_with(start), "{text:?}\n is: {message}\nwant: {start}");
    }
}

#[test]
fn what_is_not_toml_has_line_and_column() {
    let message = error("mode = \"monitor\"\n[output\n");
    assert!(message.starts_with("config/x.toml:2:8: "), "{message}");
    let message = error("mode = 'x'\nmode = 'y'");
    assert!(message.starts_with("config/x.toml:2:1: "), "{message}");
}

#[test]
fn errors_about_files_name_the_file() {
    let missing = Config::load(Path::new("/nonexistent/b.toml")).unwrap_err().to_string();
    assert!(missing.starts_with("/nonexistent/b.toml: "), "{missing}");
    let folder = tempfile::tempdir().unwrap();
    let main = folder.path().join("b.toml");
    std::fs::write(&main, "[images]\ndenylist_files = [\"list.toml\"]\n").unwrap();
    let list = folder.path().join("list.toml");
    std::fs::write(&list, "[[image]]\nimage = \"a/*\"\nwy = \"x\"\n").unwrap();
    let message = Loaded::load(&main).unwrap_err().to_string();
    assert!(message.starts_with(&format!("{}:3: image[0].wy: ", list.display())), "{message}");
    std::fs::write(&main, [0xff, 0xfe]).unwrap();
    assert!(matches!(Config::load(&main), Err(ConfigError::Read { .. })));
}

#[test]
fn the_sample_is_the_default() {
    assert_eq!(parse(&sample::toml()).unwrap(), Config::default());
}

#[test]
fn every_key_of_the_sample_is_accepted_uncommented() {
    // `#key = value` lines and table headers alone, prose dropped.
    let key =
        |l: &str| l.strip_prefix('#').is_some_and(|l| l.starts_with(|c: char| c.is_ascii_lowercase() || c == '['));
    let text: String = sample::toml()
        .lines()
        .filter(|l| l.starts_with('[') || key(l))
        .map(|l| format!("{}\n", l.trim_start_matches('#')))
        .collect();
    let config = parse(&text).unwrap();
    assert_eq!((config.image.len(), config.exception.len()), (1, 1));
    assert_eq!(config.actions, Actions::default());
    assert_eq!(config.data.pools, Some("pools.toml".into()));
}

#[test]
fn every_example_is_accepted() {
    for line in sample::toml().lines() {
        let Some(example) = line.strip_prefix("# For instance: ") else {
            continue;
        };
        let key = example.split(' ').next().unwrap();
        let ok = ["scope", "kernel", "baseline", "miner", "images", "sensitive"]
            .iter()
            .any(|t| parse(&format!("[{t}]\n{example}\n")).is_ok_and(|c| c != Config::default()));
        assert!(ok, "{key}: {example}");
    }
}

#[test]
fn an_exception_by_program_alone_is_for_what_the_daemon_does() {
    let rule = "[[exception]]\nkinds = [\"reverse_shell\"]\nreason = \"r\"\nexe = \"/bin/bash\"\n";
    assert!(parse(rule).is_err());
    assert!(parse(&format!("{rule}[actions]\nreverse_shell = \"alert\"\n")).is_ok());
    assert!(parse(&format!("{rule}image = \"a\"\n")).is_ok());
}

#[test]
fn no_table_is_left_out_of_the_sample() {
    let mut declared: Vec<_> = <Config as doc::Section>::keys().into_iter().map(|k| k.name).collect();
    let mut shown = sample::names();
    declared.sort_unstable();
    shown.sort_unstable();
    assert_eq!(declared, shown);
}

#[test]
fn every_finding_kind_has_an_action_under_its_own_name() {
    for kind in FindingKind::ALL {
        let text = format!("[actions]\n{} = \"deny\"\n", kind.name());
        let mut other = parse(&text).unwrap().actions;
        assert_eq!(other.of(*kind), Action::Deny, "{}", kind.name());
        let text = format!("[actions]\n{} = \"alert\"\n", kind.name());
        other = parse(&text).unwrap().actions;
        assert_eq!(other.of(*kind), Action::Alert, "{}", kind.name());
    }
}

#[test]
fn builtin_lists_are_read() {
    let lists = Loaded::builtin().unwrap().lists;
    assert!(lists.pools.is_pool("pool.minexmr.com"));
    assert!(lists.pools.is_pool("stratum.antpool.com"));
    assert!(lists.pools.is_pool("stratum-eth.antpool.com") && lists.pools.is_pool("eth2.f2pool.com"));
    assert!(!lists.pools.is_pool("www.antpool.com") && !lists.pools.is_pool("ssl.antpool.com"));
    assert!(!lists.pools.is_pool("notminexmr.com"));
    assert!(lists.pools.is_pool("POOL.SupportXMR.com."));
    assert!(lists.miners.names.iter().any(|n| n == "xmrig"));
    assert!(!lists.miners.names.iter().any(|n| n == "geth"));
    assert!(lists.programs.classes().any(|(n, c)| n == "bash" && c & 1 == 1));
}

#[test]
fn program_names_are_as_the_kernel_half_looks_them_up() {
    for (name, _) in Loaded::builtin().unwrap().lists.programs.classes() {
        assert_eq!(hash::program(name.as_bytes()), hash::name(name.as_bytes()), "{name}");
        assert!(name.len() < 32, "{name}");
    }
}

#[test]
fn extras_join_the_lists() {
    let text = r#"
[images]
denylist = ["evil/*"]
digests = ["sha256:ABCDEF0000000000000000000000000000000000000000000000000000000000"]
[miner]
pools = ["Pool.Example."]
ports = [1]
names = ["mm"]
pool_networks = ["2001:db8::/32", "198.51.100.7"]
[sensitive]
cron = ["etc/fcrontab"]
"#;
    let config = parse(text).unwrap();
    let lists = Lists::assemble(&config, Path::new(".")).unwrap();
    assert!(lists.images.image.iter().any(|entry| entry.image.as_str() == "evil/*"));
    let digest = "sha256:abcdef0000000000000000000000000000000000000000000000000000000000";
    assert!(lists.images.digest.iter().any(|entry| entry.digest.as_str() == digest));
    assert!(lists.pools.is_pool("eu.pool.example"));
    assert!(lists.pools.ports.contains(&1));
    assert_eq!(lists.pools.networks.len(), 2);
    assert!(lists.sensitive.patterns().any(|(p, _)| p.is_match("/mnt/etc/fcrontab")));
}

#[test]
fn a_replacement_takes_the_place_of_the_builtin_list() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("p.toml"), "domains = [\"only.example\"]").unwrap();
    let main = folder.path().join("b.toml");
    std::fs::write(&main, "[data]\npools = \"p.toml\"\n").unwrap();
    let pools = Loaded::load(&main).unwrap().lists.pools;
    assert!(pools.is_pool("only.example") && !pools.is_pool("pool.minexmr.com"));
}

#[test]
fn sensitive_paths_at_any_mount_point() {
    let lists = Loaded::builtin().unwrap().lists;
    let reason = |path: &str| lists.sensitive.patterns().find(|(p, _)| p.is_match(path)).map(|x| x.1);
    use monitor_common::header::Reason;
    for (path, want) in [
        ("/root/.ssh/authorized_keys", Some(Reason::PersistenceSshKey)),
        ("/mnt/etc/crontab", Some(Reason::PersistenceCron)),
        ("/etc/cron.d/x", Some(Reason::PersistenceCron)),
        ("/var/spool/cron/crontabs/root", Some(Reason::PersistenceCron)),
        ("/var/spool/cron/root", Some(Reason::PersistenceCron)),
        ("/etc/crontabs/root", Some(Reason::PersistenceCron)),
        ("/etc/ld.so.preload", Some(Reason::PersistenceOther)),
        ("/home/u/.bashrc", Some(Reason::PersistenceOther)),
        ("/root/.ssh/known_hosts", None),
        ("/etc/passwd", None),
        ("/home/u/profile", None),
        ("/x/cron.d/y", None),
    ] {
        assert_eq!(reason(path), want, "{path}");
    }
}

#[test]
fn a_pattern_key_is_what_the_kernel_half_computes() {
    let pattern: value::PathPattern = "etc/cron.d/*".parse().unwrap();
    assert_eq!(pattern.components(), [None, Some("cron.d"), Some("etc")]);
    let key = hash::path_key(0, hash::name(b"cron.d"), hash::name(b"etc"));
    assert_eq!(pattern.key(), key);
    let short: value::PathPattern = ".bashrc".parse().unwrap();
    assert_eq!(short.key(), hash::path_key(hash::name(b".bashrc"), 0, 0));
}
