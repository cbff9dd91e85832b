//! Builds one image: root file system, packages, users, files, set-up script.

use super::super::engine::Engine;
use super::super::process;
use super::super::runtime::Settings;
use super::definition::{Definition, FileEntry, FullUser};
use super::rootfs;
use anyhow::{Context, Result, anyhow, bail};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Compiling the subjects on a busy machine.
const COMPILE_LIMIT: Duration = Duration::from_secs(900);

/// Environment of an image made from nothing.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A file of the image with its bytes.
pub struct ReadyFile {
    /// Absolute path in the image.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// Bytes.
    pub content: Vec<u8>,
}

/// Reads or builds every file of `definition`; relative paths start in `folder`.
pub fn gather(engine: &Engine, definition: &Definition, folder: &Path) -> Result<Vec<ReadyFile>> {
    let mut files = Vec::new();
    for entry in &definition.file {
        files.push(ready(engine, entry, folder).with_context(|| format!("file {}", entry.path))?);
    }
    Ok(files)
}

fn ready(engine: &Engine, entry: &FileEntry, folder: &Path) -> Result<ReadyFile> {
    let content = match (&entry.content, &entry.subject, &entry.from) {
        (Some(text), None, None) => text.clone().into_bytes(),
        (None, Some(subject), None) => fs::read(self::subject(engine, subject)?)?,
        (None, None, Some(from)) => fs::read(folder.join(from)).with_context(|| format!("reading {from}"))?,
        _ => bail!("give exactly one of `content`, `subject` and `from`"),
    };
    let mode = match &entry.mode {
        Some(text) => u32::from_str_radix(text.trim_start_matches("0o"), 8).context("`mode` is octal")?,
        None if entry.subject.is_some() => 0o755,
        None => 0o644,
    };
    let path = entry.path.clone();
    if !path.starts_with('/') || path.split('/').any(|part| part == "..") {
        bail!("`path` is absolute and without ..");
    }
    Ok(ReadyFile { path, mode, content })
}

/// Static build of one program of `tests/subjects`, so that it runs in any image.
pub fn subject(engine: &Engine, name: &str) -> Result<PathBuf> {
    if !name.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c)) {
        bail!("`{name}` is no program name");
    }
    if let Some(folder) = engine.prebuilt() {
        return Ok(folder.join("subjects").join(name));
    }
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    // --target keeps build scripts and macros dynamic: only the program itself is static.
    let folder = engine.cache().join("subjects");
    process::must(
        Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .current_dir(crate::workspace::root())
            .args(["build", "--quiet", "--locked", "--release", "-p", "subjects", "--bin", name])
            .args(["--target", &target])
            .arg("--target-dir")
            .arg(&folder)
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .env("RUSTFLAGS", "-Ctarget-feature=+crt-static"),
        COMPILE_LIMIT,
        engine.interrupt(),
    )
    .with_context(|| format!("building subject {name}"))?;
    Ok(folder.join(target).join("release").join(name))
}

/// Builds the image and tags it.
pub fn build(
    engine: &Engine,
    definition: &Definition,
    base_image: Option<&str>,
    files: &[ReadyFile],
    tag: &str,
) -> Result<()> {
    let root = engine.scratch(&format!("build-{}", tag.replace(['/', ':'], "-")))?;
    let result = fill(engine, definition, base_image, files, &root)
        .and_then(|()| engine.runtime().images().keep(&root, tag, &settings(engine, definition, base_image)?));
    match fs::remove_dir_all(&root) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", root.display()))
        }
        _ => result,
    }
}

fn fill(
    engine: &Engine,
    definition: &Definition,
    base_image: Option<&str>,
    files: &[ReadyFile],
    root: &Path,
) -> Result<()> {
    match (base_image, definition.base.as_str()) {
        (Some(image), _) => engine.runtime().images().unpack(image, root)?,
        (None, "debootstrap") => rootfs::debian(&engine.workshop(), root)?,
        (None, "busybox") => rootfs::busybox(&engine.workshop(), root)?,
        (None, other) => bail!("`base` is debootstrap, busybox or image:NAME, not {other}"),
    }
    rootfs::install(&engine.workshop(), root, &definition.packages)?;
    for user in &definition.users {
        add_user(root, &user.full())?;
    }
    for file in files {
        put(root, file)?;
    }
    if definition.setup.trim().is_empty() {
        Ok(())
    } else {
        rootfs::inside(&engine.workshop(), root, &definition.setup).context("running `setup`")
    }
}

fn put(root: &Path, file: &ReadyFile) -> Result<()> {
    let path = root.join(file.path.trim_start_matches('/'));
    let parent = path.parent().ok_or_else(|| anyhow!("{} has no folder", file.path))?;
    fs::create_dir_all(parent)?;
    // The folder may be reached through an absolute link of the image: that must not lead to the host.
    if !parent.canonicalize()?.starts_with(root.canonicalize()?) {
        bail!("{} leads out of the image through a link", file.path);
    }
    if path.symlink_metadata().is_ok_and(|meta| meta.file_type().is_symlink()) {
        fs::remove_file(&path)?;
    }
    fs::write(&path, &file.content).with_context(|| format!("writing {}", path.display()))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(file.mode))?;
    Ok(())
}

/// Adds a user by hand: busybox and a minimal Debian differ in their tools for it, not in the files.
fn add_user(root: &Path, user: &FullUser) -> Result<()> {
    let passwd = root.join("etc/passwd");
    let text = fs::read_to_string(&passwd).context("reading etc/passwd")?;
    let name = &user.name;
    if text.lines().any(|line| line.split(':').next() == Some(name)) {
        return Ok(());
    }
    let uid = user.uid.unwrap_or_else(|| next_uid(&text));
    let home = user.home.clone().unwrap_or_else(|| format!("/home/{name}"));
    let shell = user.shell.as_deref().unwrap_or("/bin/sh");
    fs::write(&passwd, format!("{text}{name}:x:{uid}:{uid}::{home}:{shell}\n"))?;
    let group = root.join("etc/group");
    let groups = fs::read_to_string(&group).unwrap_or_default();
    fs::write(&group, format!("{groups}{name}:x:{uid}:\n"))?;
    let folder = root.join(home.trim_start_matches('/'));
    fs::create_dir_all(&folder)?;
    std::os::unix::fs::chown(&folder, Some(uid), Some(uid)).with_context(|| format!("chown {home}"))
}

fn next_uid(passwd: &str) -> u32 {
    let taken = passwd.lines().filter_map(|line| line.split(':').nth(2)?.parse::<u32>().ok());
    // 65534 is nobody; below 1000 are the system's.
    taken.filter(|uid| (1000..60000).contains(uid)).max().map_or(1000, |uid| uid + 1)
}

/// Image settings; an image made from another keeps what it does not set itself.
fn settings(engine: &Engine, definition: &Definition, base_image: Option<&str>) -> Result<Settings> {
    let mut settings = match base_image {
        Some(image) => engine.runtime().images().settings(image)?,
        None => Settings { env: vec![PATH.to_owned()], entrypoint: None },
    };
    for (name, value) in &definition.env {
        settings.env.retain(|pair| pair.split('=').next() != Some(name));
        settings.env.push(format!("{name}={value}"));
    }
    if let Some(entrypoint) = &definition.entrypoint {
        settings.entrypoint = Some(entrypoint.words());
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_get_the_next_free_number() {
        assert_eq!(next_uid("root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/x\n"), 1000);
        assert_eq!(next_uid("a:x:1000:1000::/:/x\nb:x:1004:1004::/:/x\n"), 1005);
    }
}
