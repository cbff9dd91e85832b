#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;
use clap::CommandFactory as _;

fn parse(line: &str) -> Result<Command, clap::Error> {
    Cli::try_parse_from(line.split(' ')).map(|cli| cli.command)
}

#[test]
fn the_definitions_are_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn every_subcommand_is_understood() {
    for line in [
        "bulkhead run",
        "bulkhead run --config /x.toml",
        "bulkhead check --json",
        "bulkhead validate /x.toml",
        "bulkhead events --follow --json -n 5",
        "bulkhead events --socket /s",
        "bulkhead status --json --config /x.toml",
        "bulkhead incidents --json --from /a --from /b",
        "bulkhead report 3f --format text --output /x.html --events /e",
        "bulkhead explain 3f --socket /s",
        "bulkhead quarantine web",
        "bulkhead release --socket /s 0123abcd",
        "bulkhead freeze web --config /x.toml",
        "bulkhead thaw web",
        "bulkhead audit --config /x.toml --json",
        "bulkhead demo",
        "bulkhead docs --write .",
        "bulkhead docs --check",
    ] {
        assert!(parse(line).is_ok(), "{line}");
    }
    for line in ["bulkhead", "bulkhead ru", "bulkhead validate", "bulkhead docs", "bulkhead run x", "bulkhead freeze"] {
        assert!(parse(line).unwrap_err().use_stderr(), "{line}");
    }
}

#[test]
fn bad_configuration_ends_with_64() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("b.toml");
    std::fs::write(&file, "mod = 1\n").unwrap();
    let error = validate::main(&ValidateArgs { file: file.clone() }).unwrap_err();
    assert_eq!(error.exit(), Exit::Usage);
    assert!(error.to_string().starts_with(&format!("{}:1: mod: ", file.display())), "{error}");
    let config = ConfigArg { config: Some("/nonexistent/b.toml".into()) };
    assert_eq!(config.load().unwrap_err().exit(), Exit::Usage);
    std::fs::write(&file, "mode = \"protect\"\n").unwrap();
    assert_eq!(validate::main(&ValidateArgs { file }).unwrap(), Exit::Ok);
}

#[test]
fn without_a_daemon_the_clients_say_so() {
    let socket = SocketArg { socket: Some("/nonexistent/c.sock".into()), config: ConfigArg::default() };
    let args = StatusArgs { json: false, socket: socket.clone() };
    let error = status::main(&args).unwrap_err();
    assert_eq!(error.exit(), Exit::Failure);
    assert!(error.to_string().contains("no daemon answers at /nonexistent/c.sock"), "{error}");
    let args = EventsArgs { follow: true, json: true, last: None, socket };
    assert_eq!(events::main(&args).unwrap_err().exit(), Exit::Failure);
    let socket = SocketArg { socket: Some("/nonexistent/c.sock".into()), config: ConfigArg::default() };
    let order = |container: &str| OrderArgs { container: container.into(), socket: socket.clone() };
    let error = order::main(Deed::Quarantine, &order("web")).unwrap_err();
    assert_eq!(error.exit(), Exit::Failure);
    assert!(error.to_string().contains("no daemon answers at /nonexistent/c.sock"), "{error}");
    assert_eq!(order::main(Deed::Thaw, &order("")).unwrap_err().exit(), Exit::Usage);
}

#[test]
fn the_socket_of_the_configuration_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("b.toml");
    std::fs::write(&file, "[control]\nsocket = \"/x/c.sock\"\n").unwrap();
    let arg = SocketArg { socket: None, config: ConfigArg { config: Some(file.clone()) } };
    assert_eq!(arg.path().unwrap(), Path::new("/x/c.sock"));
    std::fs::write(&file, "[control]\nsocket = \"\"\n").unwrap();
    assert!(arg.path().unwrap_err().to_string().contains("turns the control socket off"));
}

#[test]
fn generated_files_are_fresh() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let stale = docs::stale(&repository, &docs::files().unwrap());
    assert!(stale.is_empty(), "stale: {stale:?}; run `cargo run -p monitor -- docs --write .`");
}

#[test]
fn written_files_are_fresh_and_changed_ones_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let args = |write: bool| {
        let path = Some(folder.path().to_path_buf());
        DocsArgs { write: path.clone().filter(|_| write), check: path.filter(|_| !write) }
    };
    assert_eq!(docs::main(&args(false)).unwrap_err().exit(), Exit::Failure);
    docs::main(&args(true)).unwrap();
    assert_eq!(docs::main(&args(false)).unwrap(), Exit::Ok);
    std::fs::write(folder.path().join("docs/findings.md"), "x").unwrap();
    let error = docs::main(&args(false)).unwrap_err().to_string();
    assert!(error.starts_with("stale: docs/findings.md;"), "{error}");
}
