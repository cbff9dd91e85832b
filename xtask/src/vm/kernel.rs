//! One unpacked kernel: its image, and those of its modules that a guest needs.

use super::cpio::Archive;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What a guest needs where the kernel has it as a module: the root disk, containers' roots and networks.
const WANTED: [&str; 5] = ["virtio_pci", "virtio_blk", "overlay", "veth", "bridge"];

/// A kernel that can be booted.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// As `uname -r` says it.
    pub release: String,
    /// The compressed image.
    pub image: PathBuf,
    modules: PathBuf,
}

impl Kernel {
    /// The kernel unpacked in a folder.
    pub fn in_folder(folder: &Path) -> Result<Self> {
        for modules in ["lib/modules", "usr/lib/modules"] {
            for entry in fs::read_dir(folder.join(modules)).into_iter().flatten().flatten() {
                let release = entry.file_name().to_string_lossy().into_owned();
                let images = [folder.join(format!("boot/vmlinuz-{release}")), entry.path().join("vmlinuz")];
                if let Some(image) = images.into_iter().find(|image| image.exists()) {
                    return Ok(Self { release, image, modules: entry.path() });
                }
            }
        }
        bail!("no kernel image with its modules in {}", folder.display())
    }

    /// Adds the modules to an initramfs, numbered in the order they are to be loaded in.
    pub fn add_modules(&self, archive: &mut Archive) -> Result<()> {
        let files = files_below(&self.modules.join("kernel"))?;
        let builtin = fs::read_to_string(self.modules.join("modules.builtin")).unwrap_or_default();
        let mut order = Vec::new();
        for name in WANTED {
            load_order(name, &files, &builtin, &mut order)?;
        }
        for (number, (name, content)) in order.iter().enumerate() {
            archive.file(&format!("modules/{number:02}-{name}.ko"), 0o644, content);
        }
        Ok(())
    }
}

/// Appends a module after everything it depends on. The packages bring no list of dependencies
/// (depmod makes it at installation); each module names its own in `.modinfo`.
fn load_order(name: &str, files: &[PathBuf], builtin: &str, order: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
    let is_builtin = || builtin.lines().any(|line| module_name(Path::new(line)) == name);
    if order.iter().any(|(present, _)| present == name) || is_builtin() {
        return Ok(());
    }
    let Some(file) = files.iter().find(|file| module_name(file) == name) else {
        // 7.x packages have no list of what is built in; the guest says what it cannot mount.
        return Ok(());
    };
    let content = read_module(file)?;
    for needed in depends(&content) {
        load_order(&needed, files, builtin, order)?;
    }
    order.push((name.to_owned(), content));
    Ok(())
}

fn read_module(file: &Path) -> Result<Vec<u8>> {
    let tool = match file.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => return fs::read(file).with_context(|| format!("read {}", file.display())),
    };
    let output = Command::new(tool).arg("-dc").arg(file).output().with_context(|| format!("start {tool}"))?;
    if !output.status.success() {
        bail!("{tool} -dc {} ended with {}", file.display(), output.status);
    }
    Ok(output.stdout)
}

/// What `depends=` in a module says.
fn depends(module: &[u8]) -> Vec<String> {
    const MARK: &[u8] = b"\0depends=";
    let Some(at) = module.windows(MARK.len()).position(|window| window == MARK) else { return Vec::new() };
    let rest = &module[at + MARK.len()..];
    let end = rest.iter().position(|byte| *byte == 0).unwrap_or(rest.len());
    let text = String::from_utf8_lossy(&rest[..end]);
    text.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect()
}

/// `…/virtio-foo.ko.xz` is the module `virtio_foo`.
fn module_name(file: &Path) -> String {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    name.split(".ko").next().unwrap_or_default().replace('-', "_")
}

fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            files.extend(files_below(&entry.path())?);
        } else {
            files.push(entry.path());
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_come_from_the_module_itself() {
        assert_eq!(
            depends(b"\x7fELF\0license=GPL\0depends=virtio_ring,virtio-pci\0name=x\0"),
            ["virtio_ring", "virtio_pci"]
        );
        assert!(depends(b"\0depends=\0name=x\0").is_empty());
        assert_eq!(module_name(Path::new("kernel/a/virtio-x.ko.xz")), "virtio_x");
    }
}
