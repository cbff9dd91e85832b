//! `struct file`, `inode`, `dentry`, `super_block`.

use super::sock::Sock;
use super::task::Task;
use super::{Object, read};
use crate::maps::offset;
use aya_ebpf::helpers::bpf_probe_read_kernel_buf;
use aya_ebpf::helpers::generated::{bpf_probe_read_kernel_str, bpf_probe_read_user_str};
use core::mem::MaybeUninit;
use monitor_common::field::Field;
use monitor_common::file::{
    COMPONENT_LEN, COMPONENTS, FILE_FOREIGN_SB, FILE_MEMFD, FILE_OVERLAY, FILE_PATH_CUT, FILE_TMPFS, FILE_UNLINKED,
    FILE_UPPER, FileRef,
};
use monitor_common::state::InodeKey;

const S_IFMT: u32 = 0o170_000;
const S_IFSOCK: u32 = 0o140_000;
const S_IFREG: u32 = 0o100_000;
const S_IFCHR: u32 = 0o020_000;
const S_IFIFO: u32 = 0o010_000;

/// include/linux/fs.h
pub const FMODE_WRITE: u32 = 2;
/// include/linux/fs.h
pub const FMODE_CREATED: u32 = 0x10_0000;
/// include/uapi/asm-generic/fcntl.h
pub const O_TRUNC: u32 = 0o1000;

/// `ERR_PTR(-EINVAL)` (fs/mount.h)
const MNT_NS_INTERNAL: i64 = -22;

/// include/uapi/linux/magic.h
const OVERLAYFS_MAGIC: u64 = 0x794c_7630;
const TMPFS_MAGIC: u64 = 0x0102_1994;

/// Major number of terminals: 4 (tty), 5 (/dev/tty), 136–143 (pts); Documentation/admin-guide/devices.txt
const TTY_MAJORS: [u32; 3] = [4, 5, 136];

/// An open file.
#[derive(Clone, Copy)]
pub struct File(pub Object);

impl File {
    /// Its inode.
    #[inline(always)]
    pub fn inode(self) -> Option<Inode> {
        self.0.follow(Field::FileInode).map(Inode)
    }

    /// `FMODE_*`.
    #[inline(always)]
    pub fn mode(self) -> Option<u32> {
        self.0.get(Field::FileMode)
    }

    /// `O_*`.
    #[inline(always)]
    pub fn flags(self) -> Option<u32> {
        self.0.get(Field::FileFlags)
    }

    /// Its directory entry.
    #[inline(always)]
    pub fn dentry(self) -> Option<Dentry> {
        self.0.embedded(Field::FilePath)?.follow(Field::PathDentry).map(Dentry)
    }

    /// The socket behind a socket file.
    #[inline(always)]
    pub fn sock(self) -> Option<Sock> {
        self.0.follow(Field::FilePrivate)?.follow(Field::SocketSk).map(Sock)
    }

    /// Fills a [`FileRef`]. `root_sb` is the superblock of the task's root directory.
    #[inline(always)]
    pub fn describe(self, out: &mut FileRef, root_sb: Option<Object>) -> Option<()> {
        describe(Some(self.inode()?), self.dentry()?, out, root_sb)
    }

    /// Was it made by memfd_create(2)?
    #[inline(always)]
    pub fn is_memfd(self, inode: Inode) -> bool {
        let mut name = MaybeUninit::<[u8; COMPONENT_LEN]>::uninit();
        // SAFETY: as in `sensitive::name`.
        let name = unsafe { &mut *name.as_mut_ptr() };
        inode.links() == Some(0)
            && inode.layer_flags() & FILE_TMPFS != 0
            && self.dentry().and_then(|dentry| dentry.name(name)).is_some()
            && is_memfd(name)
    }

    /// Was it opened by the kernel for itself, on a mount in nobody's namespace? Overlayfs opens the
    /// files of its layers so. A memfd is on such a mount too, but has no name.
    #[inline(always)]
    pub fn is_backing(self, inode: Inode) -> bool {
        let namespace = || {
            let mount = self.0.embedded(Field::FilePath)?.follow(Field::PathMnt)?;
            let start = mount.raw().wrapping_sub(offset(Field::MountMnt)?);
            read::<i64>(start.wrapping_add(offset(Field::MountNamespace)?).cast())
        };
        namespace() == Some(MNT_NS_INTERNAL) && inode.links() != Some(0)
    }
}

/// Fills a [`FileRef`] for a directory entry and the inode it has or will get; a name without a file is
/// described by its directory's file system. `root_sb` is as for [`File::describe`].
#[inline(always)]
pub fn describe(inode: Option<Inode>, dentry: Dentry, out: &mut FileRef, root_sb: Option<Object>) -> Option<()> {
    match inode {
        Some(inode) => inode.describe(out, root_sb),
        None => {
            let described = dentry.parent()?.inode()?.describe(out, root_sb);
            out.mode = 0;
            out.size = 0;
            out.ino = 0;
            described
        }
    };
    dentry.components(out);
    if out.flags & FILE_TMPFS != 0 && out.flags & FILE_UNLINKED != 0 && is_memfd(&out.names[0]) {
        out.flags |= FILE_MEMFD;
    }
    Some(())
}

/// memfd_create(2) names its file `memfd:NAME`. Byte by byte: a slice comparison would be a call of
/// memcmp, which the verifier does not take for ring memory.
#[inline(always)]
fn is_memfd(name: &[u8; COMPONENT_LEN]) -> bool {
    name[0] == b'm' && name[1] == b'e' && name[2] == b'm' && name[3] == b'f' && name[4] == b'd' && name[5] == b':'
}

/// An inode.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Inode(pub Object);

/// What kind of file an inode is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Type {
    Regular,
    Pipe,
    Socket,
    Device,
    Other,
}

impl Type {
    /// By `i_mode`.
    #[inline(always)]
    pub fn of(mode: u32) -> Self {
        match mode & S_IFMT {
            S_IFREG => Self::Regular,
            S_IFIFO => Self::Pipe,
            S_IFSOCK => Self::Socket,
            S_IFCHR => Self::Device,
            _ => Self::Other,
        }
    }
}

impl Inode {
    /// `i_mode`.
    #[inline(always)]
    pub fn mode(self) -> Option<u32> {
        self.0.get::<u16>(Field::InodeMode).map(u32::from)
    }

    /// Its kind.
    #[inline(always)]
    pub fn kind(self) -> Option<Type> {
        self.mode().map(Type::of)
    }

    /// (device, number).
    #[inline(always)]
    pub fn key(self) -> Option<InodeKey> {
        let dev = self.0.follow(Field::InodeSb)?.get(Field::SbDev)?;
        Some(InodeKey { ino: self.0.get(Field::InodeNumber)?, dev, generation: 0 })
    }

    /// Device number of a device file.
    #[inline(always)]
    pub fn rdev(self) -> Option<u32> {
        self.0.get(Field::InodeRdev)
    }

    /// Hard links.
    #[inline(always)]
    pub fn links(self) -> Option<u32> {
        self.0.get(Field::InodeLinks)
    }

    /// How many have it open for writing.
    #[inline(always)]
    pub fn writers(self) -> Option<i32> {
        self.0.get(Field::InodeWriters)
    }

    /// Bytes.
    #[inline(always)]
    pub fn size(self) -> Option<u64> {
        self.0.get(Field::InodeSize)
    }

    /// Magic of its file system.
    #[inline(always)]
    pub fn magic(self) -> Option<u64> {
        self.0.follow(Field::InodeSb)?.get(Field::SbMagic)
    }

    /// The process that a file of /proc is about.
    #[inline(always)]
    pub fn process(self) -> Option<Task> {
        let start = Object::new(self.0.raw().wrapping_sub(offset(Field::ProcInodeVfs)?))?;
        Task::of_pid(start.follow(Field::ProcInodePid)?)
    }

    /// Fills in all but the names.
    #[inline(always)]
    pub fn describe(self, out: &mut FileRef, root_sb: Option<Object>) -> Option<()> {
        out.flags = 0;
        out.reserved = 0;
        out.mode = self.mode()?;
        out.size = self.size()?;
        out.ino = self.0.get(Field::InodeNumber)?;
        let sb = self.0.follow(Field::InodeSb)?;
        out.dev = sb.get(Field::SbDev)?;
        let magic: u64 = sb.get(Field::SbMagic)?;
        out.magic = magic as u32;
        out.flags |= self.layer(magic);
        if let Some(root) = root_sb
            && root != sb
        {
            out.flags |= FILE_FOREIGN_SB;
        }
        if self.links()? == 0 {
            out.flags |= FILE_UNLINKED;
        }
        Some(())
    }

    /// `FILE_OVERLAY`, `FILE_UPPER`, `FILE_TMPFS`.
    #[inline(always)]
    fn layer(self, magic: u64) -> u32 {
        if magic == TMPFS_MAGIC {
            return FILE_TMPFS;
        }
        if magic != OVERLAYFS_MAGIC {
            return 0;
        }
        match self.upper() {
            Some(0) | None => FILE_OVERLAY,
            Some(_) => FILE_OVERLAY | FILE_UPPER,
        }
    }

    /// Of a file on overlayfs the address of its dentry in the layer that is written, 0 if it is not there.
    ///
    /// struct ovl_inode: `struct inode vfs_inode; struct dentry *__upperdentry;` stand in this order since 4.13
    /// (fs/overlayfs/ovl_entry.h); overlayfs is often a module without BTF here, so the place is taken from the
    /// size of struct inode.
    #[inline(always)]
    fn upper(self) -> Option<u64> {
        read(self.0.raw().wrapping_add(offset(Field::InodeSizeOf)?).cast())
    }

    /// What tells the file from those that had its number before (file systems draw or count it anew for each),
    /// 0 if that is not known. `None` if overlayfs has it in a lower layer only, from where numbers of the upper
    /// one may come again: nobody has written it.
    #[inline(always)]
    pub fn generation(self) -> Option<u32> {
        let magic = self.0.follow(Field::InodeSb).and_then(|sb| sb.get::<u64>(Field::SbMagic));
        if magic != Some(OVERLAYFS_MAGIC) {
            return Some(self.0.get(Field::InodeGeneration).unwrap_or(0));
        }
        let Some(upper) = self.upper() else { return Some(0) };
        let written = Object::new(upper as *const u8)?.follow(Field::DentryInode);
        Some(written.and_then(|inode| inode.get(Field::InodeGeneration)).unwrap_or(0))
    }

    /// Does it lie on the overlay that is somebody's root file system?
    #[inline(always)]
    pub fn is_on_root_overlay(self, root_sb: Option<Object>) -> bool {
        let sb = self.0.follow(Field::InodeSb);
        let magic = sb.and_then(|sb| sb.get::<u64>(Field::SbMagic));
        sb.is_some() && sb == root_sb && magic == Some(OVERLAYFS_MAGIC)
    }

    /// Does it lie in a layer of the image of whoever has this root file system?
    #[inline(always)]
    pub fn is_of_image(self, root_sb: Option<Object>) -> Option<bool> {
        let sb = self.0.follow(Field::InodeSb)?;
        let drifted = self.layer(sb.get(Field::SbMagic)?) & (FILE_UPPER | FILE_TMPFS) != 0;
        Some(!drifted && root_sb? == sb && self.links()? != 0)
    }

    /// Drift: not from the image. `(flags as in FileRef)`.
    #[inline(always)]
    pub fn layer_flags(self) -> u32 {
        self.0.follow(Field::InodeSb).and_then(|sb| sb.get::<u64>(Field::SbMagic)).map_or(0, |magic| self.layer(magic))
    }
}

/// Is a device number a terminal's?
#[inline(always)]
pub fn is_terminal(rdev: u32) -> bool {
    let major = rdev >> 20;
    major == TTY_MAJORS[0] || major == TTY_MAJORS[1] || (major >= TTY_MAJORS[2] && major < 144)
}

/// A directory entry.
#[derive(Clone, Copy)]
pub struct Dentry(pub Object);

impl Dentry {
    /// Entry of the parent directory; the root of a file system is its own parent.
    #[inline(always)]
    pub fn parent(self) -> Option<Self> {
        self.0.follow(Field::DentryParent).map(Self)
    }

    /// Its file; `None` for a name without one.
    #[inline(always)]
    pub fn inode(self) -> Option<Inode> {
        self.0.follow(Field::DentryInode).map(Inode)
    }

    /// Copies the name; returns its length without the NUL.
    #[inline(always)]
    pub fn name(self, out: &mut [u8; COMPONENT_LEN]) -> Option<usize> {
        let name = self.0.follow(Field::DentryName)?;
        // SAFETY: `out` is writable for its length; the helper bounds the copy and ends it with NUL.
        let n = unsafe { bpf_probe_read_kernel_str(out.as_mut_ptr().cast(), COMPONENT_LEN as u32, name.raw().cast()) };
        if n <= 0 { None } else { Some((n - 1) as usize) }
    }

    /// Copies names from here towards the root of the file system.
    #[inline(always)]
    fn components(self, out: &mut FileRef) {
        out.depth = 0;
        self.components_from(0, out);
    }

    /// The same above the first components, which are there already.
    #[inline(always)]
    pub fn components_from(self, first: usize, out: &mut FileRef) {
        let mut entry = self;
        for i in 0..COMPONENTS {
            if i < first {
                continue;
            }
            let Some(parent) = entry.parent() else { return };
            if parent.0 == entry.0 {
                return;
            }
            if entry.name(&mut out.names[i]).is_none() {
                return;
            }
            out.depth = i as u32 + 1;
            entry = parent;
        }
        if entry.parent().is_some_and(|parent| parent.0 != entry.0) {
            out.flags |= FILE_PATH_CUT;
        }
    }
}

/// Copies a NUL-terminated kernel string into a fixed field.
#[inline(always)]
pub fn string<const N: usize>(from: Object, out: &mut [u8; N]) {
    // SAFETY: `out` is writable for N bytes.
    unsafe {
        bpf_probe_read_kernel_str(out.as_mut_ptr().cast(), N as u32, from.raw().cast());
    }
}

/// Copies bytes between two places of kernel memory without a byte loop.
#[inline(always)]
pub fn copy<T>(from: *const T, to: *mut T) {
    // SAFETY: `to` is writable for its size; the source is checked by the helper.
    let out = unsafe { core::slice::from_raw_parts_mut(to.cast::<u8>(), size_of::<T>()) };
    // SAFETY: as above.
    let _ = unsafe { bpf_probe_read_kernel_buf(from.cast(), out) };
}

/// Copies a NUL-terminated text of the running process; what cannot be read is empty.
#[inline(always)]
pub fn string_from_user<const N: usize>(address: u64, out: &mut [u8; N]) {
    // SAFETY: the helper writes at most N bytes, or none.
    let read = unsafe { bpf_probe_read_user_str(out.as_mut_ptr().cast(), N as u32, address as *const _) };
    if read < 0 {
        out[0] = 0;
    }
}
