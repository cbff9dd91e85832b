//! Container identity: which cgroup belongs to which container, and what that container is.
//!
//! A container is known by its cgroup from the moment the directory is made ([`registry`]); what
//! the engine knows about it (name, image, labels) arrives when the engine gets to it ([`docker`])
//! and is never waited for. Judging images is [`denylist`]'s part, telling the host's files from a
//! container's [`host_mounts`]'s. What to do about a container is `respond`'s.

pub mod denylist;
pub mod docker;
pub mod hierarchy;
pub mod host_mounts;
pub mod path;
pub mod registry;
pub mod sockets;

pub use registry::Registry;

/// A device number as the kernel keeps it (`major << 20 | minor`), from the one `stat(2)` gives.
pub(crate) fn kernel_dev(st_dev: u64) -> u32 {
    rustix::fs::major(st_dev) << 20 | rustix::fs::minor(st_dev) & 0xf_ffff
}

/// Undoes the octal escapes of `/proc/PID/mountinfo` (`\040` for a space; see proc(5)).
pub(crate) fn unescape_mount(field: &str) -> String {
    if !field.contains('\\') {
        return field.to_owned();
    }
    let bytes = field.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let code = field.get(at + 1..at + 4).and_then(|o| u8::from_str_radix(o, 8).ok());
        match (byte, code) {
            (b'\\', Some(code)) => {
                out.push(code);
                at += 4;
            }
            _ => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    #[test]
    fn octal_escapes_are_undone() {
        assert_eq!(super::unescape_mount(r"/mnt/my\040disk"), "/mnt/my disk");
        assert_eq!(super::unescape_mount(r"/a\134b"), r"/a\b");
        assert_eq!(super::unescape_mount(r"/odd\9"), r"/odd\9");
        assert_eq!(super::unescape_mount("/plain"), "/plain");
    }

    #[test]
    fn devices_are_in_the_kernels_encoding() {
        assert_eq!(super::kernel_dev(rustix::fs::makedev(254, 3)), 254 << 20 | 3);
    }
}
