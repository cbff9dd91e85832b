//! Root file systems: Debian by debootstrap from the machine's own release, mirror and trust, and
//! busybox; and steps run inside one.

use super::super::process;
use super::super::workshop::Workshop;
use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// A slow mirror and a slow disk together.
const BUILD_LIMIT: Duration = Duration::from_secs(1800);

/// Parts of the machine's package configuration that a root file system needs to reach the same
/// mirrors with the same trust.
const APT_FILES: [&str; 9] = [
    "etc/apt/sources.list",
    "etc/apt/sources.list.d",
    "etc/apt/trusted.gpg",
    "etc/apt/trusted.gpg.d",
    "etc/apt/keyrings",
    "etc/apt/preferences.d",
    "etc/apt/auth.conf.d",
    "usr/share/keyrings",
    "etc/ssl/certs",
];

const APT_SETTINGS: &str = "etc/apt/apt.conf.d/99lab";

/// Fills the empty folder `root` with a minimal Debian, from the cache where there is one.
pub fn debian(workshop: &Workshop, root: &Path) -> Result<()> {
    let (suite, mirror) = mirror(workshop)?;
    let key = Sha256::digest(format!("{suite} {mirror} {}", std::env::consts::ARCH));
    let key: String = key.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    let cached = workshop.cache().join(format!("base-{suite}-{key}.tar"));
    if !cached.exists() {
        make_base(workshop, &suite, &mirror, &cached)?;
    }
    host(workshop, Command::new("tar").arg("-C").arg(root).arg("-xpf").arg(cached))
}

fn make_base(workshop: &Workshop, suite: &str, mirror: &str, cached: &Path) -> Result<()> {
    eprintln!("lab: making the Debian base ({suite}), once");
    let root = workshop.scratch("debootstrap")?;
    host(workshop, Command::new("debootstrap").args(["--variant=minbase", suite]).arg(&root).arg(mirror))?;
    let part = cached.with_extension("part");
    host(workshop, Command::new("tar").arg("-C").arg(&root).arg("-cpf").arg(&part).arg("."))?;
    // Renamed when complete: an interrupted build leaves no half base behind.
    fs::rename(&part, cached).context("keeping the base")?;
    fs::remove_dir_all(root).context("removing the unpacked base")
}

/// This machine's release and the first mirror that carries it.
fn mirror(workshop: &Workshop) -> Result<(String, String)> {
    let release = fs::read_to_string("/etc/os-release").context("reading /etc/os-release")?;
    let suite = release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .context("/etc/os-release names no VERSION_CODENAME; images are made from Debian packages")?
        .trim_matches('"')
        .to_owned();
    let targets = process::must(
        Command::new("apt-get").args(["indextargets", "--format", "$(RELEASE) $(SITE)", "Created-By: Packages"]),
        Duration::from_secs(30),
        workshop.interrupt(),
    )?;
    let mirror = mirror_of(&targets, &suite).with_context(|| format!("apt's sources have no mirror for {suite}"))?;
    Ok((suite, mirror))
}

fn mirror_of(targets: &str, suite: &str) -> Option<String> {
    targets
        .lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(release, _)| *release == suite)
        .map(|(_, site)| site.to_owned())
}

/// Installs `packages` into the Debian at `root`.
pub fn install(workshop: &Workshop, root: &Path, packages: &[String]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    if let Some(odd) = packages.iter().find(|name| name.starts_with('-') || name.contains(char::is_whitespace)) {
        bail!("`{odd}` is no package name");
    }
    lend_apt(workshop, root)?;
    // Services must not start inside the build.
    let policy = root.join("usr/sbin/policy-rc.d");
    write_executable(&policy, "#!/bin/sh\nexit 101\n")?;
    let step = format!(
        "export DEBIAN_FRONTEND=noninteractive\napt-get -q update || true\n\
         apt-get -q -y --no-install-recommends install {}\napt-get clean\nrm -rf /var/lib/apt/lists/*\n",
        packages.join(" ")
    );
    let result = inside(workshop, root, &step);
    fs::remove_file(policy).context("removing policy-rc.d")?;
    fs::remove_file(root.join(APT_SETTINGS)).context("removing the borrowed apt settings")?;
    result
}

fn lend_apt(workshop: &Workshop, root: &Path) -> Result<()> {
    // debootstrap's own would name the same mirror a second time.
    let _absent = fs::remove_file(root.join("etc/apt/sources.list"));
    for file in APT_FILES.iter().filter(|file| Path::new("/").join(file).exists()) {
        let parent = root.join(file).parent().map(PathBuf::from).unwrap_or_default();
        fs::create_dir_all(&parent)?;
        host(workshop, Command::new("cp").arg("-a").arg(Path::new("/").join(file)).arg(parent))?;
    }
    for file in ["etc/resolv.conf", "etc/hosts"] {
        // The content, not the link that either may be.
        if let Ok(content) = fs::read(Path::new("/").join(file)) {
            fs::write(root.join(file), content)?;
        }
    }
    // Proxies and certificates are settings of the group Acquire; hooks of the machine's own stay out.
    let settings =
        process::must(Command::new("apt-config").arg("dump"), Duration::from_secs(30), workshop.interrupt())?;
    let acquire: String =
        settings.lines().filter(|line| line.starts_with("Acquire::")).flat_map(|line| [line, "\n"]).collect();
    fs::write(root.join(APT_SETTINGS), acquire).context("lending apt's settings")
}

/// Fills the empty folder `root` with busybox (static, from the machine's package) and the files that
/// a C library and a runtime look for.
pub fn busybox(workshop: &Workshop, root: &Path) -> Result<()> {
    for folder in ["bin", "dev", "etc", "home", "proc", "root", "sys", "tmp", "usr/bin", "var"] {
        fs::create_dir_all(root.join(folder))?;
    }
    fs::copy("/usr/bin/busybox", root.join("bin/busybox"))
        .context("copying /usr/bin/busybox (Debian package busybox-static)")?;
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")?;
    fs::write(root.join("etc/group"), "root:x:0:\n")?;
    host(workshop, Command::new("chmod").arg("1777").arg(root.join("tmp")))?;
    process::must(
        Command::new("chroot").arg(root).args(["/bin/busybox", "--install", "-s", "/bin"]),
        Duration::from_secs(30),
        workshop.interrupt(),
    )
    .context("busybox must be statically linked (Debian package busybox-static)")
    .map(|_nothing| ())
}

/// An image that comes out of an engine has no devices; apt's checks want /dev/null.
const INSIDE: &str = r#"mount -t proc proc "$0/proc"
[ -c "$0/dev/null" ] || mount --bind /dev "$0/dev"
exec chroot "$0" /bin/sh /.lab-step"#;

/// Runs shell text as root inside `root`, in mount and process namespaces of its own: nothing stays
/// mounted and nothing keeps running, whatever the step does.
pub fn inside(workshop: &Workshop, root: &Path, script: &str) -> Result<()> {
    let step = root.join(".lab-step");
    fs::write(&step, format!("set -e\n{script}\n"))?;
    let result = host(
        workshop,
        Command::new("unshare")
            .args(["--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"])
            .args(["sh", "-c", INSIDE])
            .arg(root)
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
    );
    fs::remove_file(step).context("removing the build step")?;
    result
}

/// Runs a command of the build on the host.
pub fn host(workshop: &Workshop, command: &mut Command) -> Result<()> {
    process::must(command, BUILD_LIMIT, workshop.interrupt()).map(|_output| ())
}

fn write_executable(path: &Path, text: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_mirror_of_the_release() {
        let targets = "bookworm-updates http://a.example/debian\nbookworm http://b.example/debian\n\
            bookworm http://c.example/debian\n";
        assert_eq!(mirror_of(targets, "bookworm").as_deref(), Some("http://b.example/debian"));
        assert_eq!(mirror_of(targets, "trixie"), None);
    }
}
