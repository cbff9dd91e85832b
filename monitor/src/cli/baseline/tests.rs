#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;

const OLD: &str = "# ours\nimage = \"web:1\"\nmode = \"learn\"\n\n[[exec]]\nparent = \"(start)\"\nexe = \"/bin/a\"\n\n[[listen]]\nexe = \"/bin/a\"\nport = \"80\"\n";

fn shelf(files: &[(&str, &str)]) -> (tempfile::TempDir, Shelf) {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let shelf = Shelf { folder: folder.path().to_owned() };
    (folder, shelf)
}

fn promote(shelf: &Shelf, force: bool) -> CliResult {
    let (name, recordings) = ("web".to_owned(), Vec::new());
    let args = PromoteArgs { name, recordings, budget: 0, quiet: 0, force };
    promote::main(shelf, &args, &ConfigArg { config: Some("/dev/null".into()) })
}

#[test]
fn modes_go_up_and_down_one_at_a_time_and_comments_stay() {
    let (_folder, shelf) = shelf(&[("web.toml", OLD)]);
    let stage = || shelf.load("web").unwrap().1.stage;
    promote(&shelf, false).unwrap();
    assert_eq!(stage(), Stage::Monitor);
    let error = promote(&shelf, false).unwrap_err().to_string();
    assert!(error.contains("not compared with a recording"), "{error}");
    assert_eq!(stage(), Stage::Monitor);
    promote(&shelf, true).unwrap();
    assert_eq!(stage(), Stage::Protect);
    assert!(promote(&shelf, true).is_err());
    let demote = || {
        main(&BaselineArgs {
            folder: Some(shelf.folder.clone()),
            config: None,
            command: BaselineCommand::Demote { name: "we".into() },
        })
    };
    demote().unwrap();
    demote().unwrap();
    assert_eq!(stage(), Stage::Learn);
    assert!(demote().is_err());
    assert!(std::fs::read_to_string(shelf.path("web")).unwrap().starts_with("# ours\n"));
}

#[test]
fn one_that_is_not_quiet_stays() {
    let recent = format!(
        "{OLD}seen = {{ count = 1, first = \"{0}\", last = \"{0}\", containers = [\"a\"] }}\n",
        jiff::Timestamp::now()
    );
    let (_folder, shelf) = shelf(&[("web.toml", &recent)]);
    let args = PromoteArgs { name: "web".into(), recordings: Vec::new(), budget: 0, quiet: 3600, force: false };
    let error = promote::main(&shelf, &args, &ConfigArg { config: Some("/dev/null".into()) }).unwrap_err().to_string();
    assert!(error.contains("s of quiet are asked for"), "{error}");
}

#[test]
fn a_difference_reads_like_a_review() {
    let new = OLD
        .replace("/bin/a\"\n\n", "/bin/b\"\n\n")
        .replace("\"80\"", "\"80\"\n\n[[connect]]\nexe = \"*\"\nto = \"db\"\nport = \"5432\"\nprotocol = \"tcp\"");
    let parse = |text: &str| Baseline::parse(Path::new("x"), text).unwrap();
    assert_eq!(
        differences(&parse(OLD), &parse(&new)),
        ["- exec     (start) -> /bin/a", "+ exec     (start) -> /bin/b", "+ connect  * -> db port 5432/tcp"]
    );
    let (_folder, shelf) = shelf(&[("a.toml", OLD), ("b.toml", &new)]);
    assert_eq!(shelf.diff("a", "b").unwrap(), Exit::Failure);
    assert_eq!(shelf.diff("a", "a").unwrap(), Exit::Ok);
}

#[test]
fn names_may_be_cut_as_long_as_one_is_meant() {
    let (_folder, shelf) = shelf(&[("web.toml", OLD), ("web-2.toml", OLD), ("db.toml", OLD)]);
    assert_eq!(shelf.find("d").unwrap(), "db");
    assert_eq!(shelf.find("web").unwrap(), "web");
    assert!(shelf.find("we").unwrap_err().to_string().contains("may be"));
    assert_eq!(shelf.find("x").unwrap_err().exit(), Exit::Usage);
    assert!(shelf.forget("d").is_err(), "not to be removed by an abbreviation");
    assert!(shelf.validate(&[]).unwrap_err().to_string().contains("about the same containers"));
}

#[test]
fn what_is_imported_is_checked_and_named_by_its_image() {
    let (_folder, shelf) = shelf(&[]);
    let outside = tempfile::tempdir().unwrap();
    let file = outside.path().join("x.toml");
    std::fs::write(&file, OLD).unwrap();
    shelf.import(&file, false).unwrap();
    assert_eq!(std::fs::read_to_string(shelf.path("web=1")).unwrap(), OLD);
    assert!(shelf.import(&file, false).is_err());
    std::fs::write(&file, "image = 1").unwrap();
    assert_eq!(shelf.import(&file, true).unwrap_err().exit(), Exit::Usage);
    assert_eq!(std::fs::read_to_string(shelf.path("web=1")).unwrap(), OLD);
}

#[test]
fn merging_adds_what_is_new() {
    let (folder, shelf) = shelf(&[("web.toml", OLD)]);
    let other = folder.path().join("other");
    std::fs::write(&other, OLD.replace("\"80\"", "\"81\"")).unwrap();
    shelf.merge("web", &[other]).unwrap();
    assert_eq!(shelf.load("web").unwrap().1.entries.len(), 3);
}

#[test]
fn a_configmap_holds_the_file_as_it_is() {
    let map = as_configmap("b", "web=1@abc", OLD);
    assert!(map.contains("  web_1_abc.toml: |\n    # ours\n    image = \"web:1\"\n"), "{map}");
    assert!(!is_object_name("A") && !is_object_name("") && is_object_name("bulkhead.baselines-1"));
}

#[test]
fn an_edit_counts_if_it_is_accepted() {
    let (folder, shelf) = shelf(&[("web.toml", OLD)]);
    let text = || std::fs::read_to_string(shelf.path("web")).unwrap();
    let files = || std::fs::read_dir(folder.path()).unwrap().flatten().filter(|f| f.path().is_file()).count();
    edit::main(&shelf, "we", "sed -i s/80/8080/").unwrap();
    assert_eq!(text(), OLD.replace("80", "8080"));
    let before = files();
    edit::main(&shelf, "web", "true").unwrap();
    assert_eq!(files(), before, "the draft stays");

    let refused = edit::main(&shelf, "web", "sed -i s/listen/lisen/").unwrap_err();
    assert_eq!(refused.exit(), Exit::Usage);
    let said = refused.to_string();
    assert!(said.contains("lisen") && said.contains("nothing is changed, your text is in"), "{said}");
    let failed = edit::main(&shelf, "web", "sed -i s/8080/1/ \"$1\"; false").unwrap_err().to_string();
    assert!(failed.contains("ended with"), "{failed}");
    // Somebody is faster.
    let other = format!("sed -i s/8080/90/ {}; sed -i s/8080/91/", shelf.path("web").display());
    assert!(edit::main(&shelf, "web", &other).unwrap_err().to_string().contains("meanwhile"));
    assert_eq!(text(), OLD.replace("80", "90"));
}
