//! Finds kernel fields in the running kernel's type information (`/sys/kernel/btf/vmlinux`).
//!
//! aya resolves relocations an object carries, but rustc emits none, and aya keeps its member table
//! to itself; so this reads the format (Documentation/bpf/btf.rst) as far as struct members,
//! enumerators and sizes go.

use monitor_common::field::{COUNT, FIELDS, Field, MISSING};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Where the kernel keeps it.
pub const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

const MAGIC: u16 = 0xeb9f;
const KIND_INT: u32 = 1;
const KIND_PTR: u32 = 2;
const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_TYPEDEF: u32 = 8;
const KIND_VOLATILE: u32 = 9;
const KIND_CONST: u32 = 10;
const KIND_RESTRICT: u32 = 11;
const KIND_FUNC: u32 = 12;
const KIND_FUNC_PROTO: u32 = 13;
const KIND_VAR: u32 = 14;
const KIND_DATASEC: u32 = 15;
const KIND_DECL_TAG: u32 = 17;
const KIND_TYPE_TAG: u32 = 18;
const KIND_ENUM64: u32 = 19;

/// Why the type information cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    /// The file is not there or cannot be read.
    #[error("read kernel type information {path}: {source} (the kernel needs CONFIG_DEBUG_INFO_BTF=y)")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It ends early or has another format.
    #[error("kernel type information {path} is malformed at byte {at}")]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// Where.
        at: usize,
    },
    /// Fields that nothing works without are not there.
    #[error("this kernel lacks {}", .0.join(", "))]
    Missing(Vec<String>),
}

/// The parsed type information.
pub struct Btf {
    data: Vec<u8>,
    path: PathBuf,
    strings: usize,
    types: Vec<usize>,
    by_name: HashMap<(u32, Vec<u8>), u32>,
}

/// Offsets of [`FIELDS`], and the names of optional ones that are missing.
pub struct Resolved {
    /// As the programs expect them.
    pub offsets: [u32; COUNT],
    /// Optional fields this kernel does not have, with what is lost.
    pub missing: Vec<String>,
    /// As [`Btf::preempts_tracepoints`] says.
    pub preempts: bool,
}

impl Resolved {
    /// The first of these fields that this kernel does not have.
    pub fn lacks(&self, fields: &[Field]) -> Option<&'static str> {
        let lacking = fields.iter().find(|field| self.offsets[**field as usize] == MISSING)?;
        FIELDS.get(*lacking as usize).and_then(|spec| spec.names.first()).copied()
    }
}

impl Btf {
    /// Reads and indexes a BTF file.
    pub fn read(path: &Path) -> Result<Self, BtfError> {
        let data = std::fs::read(path).map_err(|source| BtfError::Read { path: path.into(), source })?;
        Self::parse(data, path)
    }

    /// Indexes type information that was read already, such as the `.BTF` section of an object;
    /// `path` only names it in errors.
    ///
    /// # Errors
    /// [`BtfError::Malformed`].
    pub fn parse(data: Vec<u8>, path: &Path) -> Result<Self, BtfError> {
        let mut btf = Self { data, path: path.into(), strings: 0, types: vec![0], by_name: HashMap::new() };
        btf.index()?;
        Ok(btf)
    }

    fn malformed(&self, at: usize) -> BtfError {
        BtfError::Malformed { path: self.path.clone(), at }
    }

    fn u32(&self, at: usize) -> Result<u32, BtfError> {
        let bytes = self.data.get(at..at + 4).ok_or_else(|| self.malformed(at))?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    fn name(&self, offset: u32) -> &[u8] {
        let start = self.strings + offset as usize;
        let rest = self.data.get(start..).unwrap_or(&[]);
        &rest[..rest.iter().position(|b| *b == 0).unwrap_or(0)]
    }

    fn index(&mut self) -> Result<(), BtfError> {
        let head = self.u32(0)?;
        if head & 0xffff != u32::from(MAGIC) {
            return Err(self.malformed(0));
        }
        let header = self.u32(4)? as usize;
        let types = header + self.u32(8)? as usize;
        let end = types + self.u32(12)? as usize;
        self.strings = header + self.u32(16)? as usize;
        let mut at = types;
        while at < end {
            let info = self.u32(at + 4)?;
            let (kind, count) = ((info >> 24) & 0x1f, (info & 0xffff) as usize);
            let id = self.types.len() as u32;
            if matches!(kind, KIND_STRUCT | KIND_UNION | KIND_ENUM | KIND_ENUM64) {
                let name = self.name(self.u32(at)?).to_vec();
                if !name.is_empty() {
                    self.by_name.entry((if kind == KIND_ENUM64 { KIND_ENUM } else { kind }, name)).or_insert(id);
                }
            }
            self.types.push(at);
            at += 12
                + match kind {
                    KIND_INT | KIND_VAR | KIND_DECL_TAG => 4,
                    KIND_ARRAY => 12,
                    KIND_STRUCT | KIND_UNION | KIND_DATASEC | KIND_ENUM64 => 12 * count,
                    KIND_ENUM | KIND_FUNC_PROTO => 8 * count,
                    KIND_PTR | KIND_TYPEDEF | KIND_VOLATILE | KIND_CONST | KIND_RESTRICT | KIND_TYPE_TAG => 0,
                    // FWD, FUNC, FLOAT
                    _ => 0,
                };
        }
        Ok(())
    }

    /// (kind, members or enumerators, size or type, place of the first member, bit-field offsets)
    fn describe(&self, id: u32) -> Option<(u32, usize, u32, usize, bool)> {
        let at = *self.types.get(id as usize)?;
        let info = self.u32(at + 4).ok()?;
        Some(((info >> 24) & 0x1f, (info & 0xffff) as usize, self.u32(at + 8).ok()?, at + 12, info >> 31 == 1))
    }

    fn strip(&self, mut id: u32) -> u32 {
        while let Some((KIND_TYPEDEF | KIND_VOLATILE | KIND_CONST | KIND_RESTRICT | KIND_TYPE_TAG, _, next, ..)) =
            self.describe(id)
        {
            id = next;
        }
        id
    }

    /// Byte offset and type of a member, looking into anonymous structs and unions.
    fn member(&self, id: u32, wanted: &str) -> Option<(u32, u32)> {
        let (kind, count, _, first, bits) = self.describe(id)?;
        if kind != KIND_STRUCT && kind != KIND_UNION {
            return None;
        }
        for i in 0..count {
            let at = first + 12 * i;
            let name = self.name(self.u32(at).ok()?);
            let inner = self.u32(at + 4).ok()?;
            let raw = self.u32(at + 8).ok()?;
            let offset = if bits { raw & 0x00ff_ffff } else { raw } / 8;
            if name == wanted.as_bytes() {
                return Some((offset, inner));
            }
            if name.is_empty()
                && let Some((deeper, found)) = self.member(self.strip(inner), wanted)
            {
                return Some((offset + deeper, found));
            }
        }
        None
    }

    fn named(&self, kind: u32, name: &str) -> Option<u32> {
        self.by_name.get(&(kind, name.as_bytes().to_vec())).copied()
    }

    /// Resolves one spelling: `struct.member.member`, `sizeof struct`, `enum NAME.ENUMERATOR`.
    pub fn resolve(&self, spelling: &str) -> Option<u32> {
        if let Some(name) = spelling.strip_prefix("sizeof ") {
            return self.describe(self.named(KIND_STRUCT, name)?).map(|found| found.2);
        }
        if let Some(rest) = spelling.strip_prefix("enum ") {
            let (name, wanted) = rest.split_once('.')?;
            let (kind, count, _, first, _) = self.describe(self.named(KIND_ENUM, name)?)?;
            let stride = if kind == KIND_ENUM64 { 12 } else { 8 };
            return (0..count).find_map(|i| {
                let at = first + stride * i;
                (self.name(self.u32(at).ok()?) == wanted.as_bytes()).then(|| self.u32(at + 4).ok())?
            });
        }
        let mut parts = spelling.split('.');
        let mut id = self.named(KIND_STRUCT, parts.next()?)?;
        let mut total = 0;
        for part in parts {
            let (offset, inner) = self.member(self.strip(id), part)?;
            total += offset;
            id = inner;
        }
        Some(total)
    }

    /// Is there a struct, and does a function's BTF exist? Used to check prototypes in tests.
    pub fn has_struct(&self, name: &str) -> bool {
        self.named(KIND_STRUCT, name).is_some()
    }

    /// Does this kernel preempt programs at BTF tracepoints? Since 7.0 tracepoints are guarded by SRCU instead of by
    /// switching preemption off (include/linux/tracepoint.h): the guard's type and its domain's per-CPU data are there.
    /// (A domain of that name, for other ends and without the guard, was in kernels before 6.15, too.)
    pub fn preempts_tracepoints(&self) -> bool {
        self.find(KIND_TYPEDEF, "class_srcu_fast_notrace_t").is_some()
            && self.find(KIND_VAR, "tracepoint_srcu_srcu_data").is_some()
    }

    /// A type of a kind that is not kept by name.
    fn find(&self, kind: u32, name: &str) -> Option<u32> {
        (1..self.types.len() as u32).find(|id| {
            let at = self.types[*id as usize];
            self.describe(*id).is_some_and(|found| found.0 == kind)
                && self.u32(at).is_ok_and(|offset| self.name(offset) == name.as_bytes())
        })
    }

    /// Members of a struct with their byte offsets, and its size: for the ABI check.
    pub fn layout(&self, name: &str) -> Option<(u32, Vec<(String, u32)>)> {
        let (_, count, size, first, bits) = self.describe(self.named(KIND_STRUCT, name)?)?;
        let members = (0..count)
            .map(|i| {
                let at = first + 12 * i;
                let raw = self.u32(at + 8).unwrap_or(0);
                let offset = if bits { raw & 0x00ff_ffff } else { raw } / 8;
                (String::from_utf8_lossy(self.name(self.u32(at).unwrap_or(0))).into_owned(), offset)
            })
            .collect();
        Some((size, members))
    }

    /// Parameter types of the tracepoint `name` as its BTF programs get them, without qualifiers
    /// (`struct task_struct *`, `pid_t`, `char *`). `None`: this kernel has no such tracepoint.
    pub fn tracepoint(&self, name: &str) -> Option<Vec<String>> {
        let typedef = self.find(KIND_TYPEDEF, &format!("btf_trace_{name}"))?;
        // typedef → pointer → prototype.
        let (_, _, pointer, ..) = self.describe(typedef)?;
        let (_, _, proto, ..) = self.describe(pointer)?;
        let (kind, count, _, first, _) = self.describe(proto)?;
        // The first parameter is the tracepoint's own `void *`, which programs do not get.
        (kind == KIND_FUNC_PROTO).then(|| {
            (1..count).map(|i| self.u32(first + 8 * i + 4).map(|id| self.spell(id))).collect::<Result<_, _>>().ok()
        })?
    }

    /// Parameter types of a kernel function, spelt as by [`Self::tracepoint`]. `None`: it has none of
    /// that name, or keeps no type information on it.
    pub fn function(&self, name: &str) -> Option<Vec<String>> {
        let function = self.find(KIND_FUNC, name)?;
        let (_, _, proto, ..) = self.describe(function)?;
        let (kind, count, _, first, _) = self.describe(proto)?;
        (kind == KIND_FUNC_PROTO).then(|| {
            (0..count).map(|i| self.u32(first + 8 * i + 4).map(|id| self.spell(id))).collect::<Result<_, _>>().ok()
        })?
    }

    /// A type in C, without qualifiers.
    fn spell(&self, id: u32) -> String {
        let Some((kind, _, next, ..)) = self.describe(id).filter(|_| id != 0) else { return "void".into() };
        let name = || {
            let at = self.types[id as usize];
            String::from_utf8_lossy(self.name(self.u32(at).unwrap_or(0))).into_owned()
        };
        match kind {
            KIND_PTR => format!("{} *", self.spell(next)).replace("* *", "**"),
            KIND_CONST | KIND_VOLATILE | KIND_RESTRICT | KIND_TYPE_TAG => self.spell(next),
            KIND_STRUCT => format!("struct {}", name()),
            KIND_UNION => format!("union {}", name()),
            KIND_ENUM | KIND_ENUM64 => format!("enum {}", name()),
            _ => name(),
        }
    }

    /// Resolves all of [`FIELDS`].
    pub fn fields(&self) -> Result<Resolved, BtfError> {
        let mut resolved =
            Resolved { offsets: [MISSING; COUNT], missing: Vec::new(), preempts: self.preempts_tracepoints() };
        let mut lacking = Vec::new();
        for (slot, spec) in resolved.offsets.iter_mut().zip(FIELDS) {
            match spec.names.iter().find_map(|name| self.resolve(name)) {
                Some(offset) => *slot = offset,
                None if spec.required => lacking.push(spec.names[0].to_owned()),
                None if spec.door => {}
                None => resolved.missing.push(format!("{} ({})", spec.names[0], spec.field.without())),
            }
        }
        if lacking.is_empty() { Ok(resolved) } else { Err(BtfError::Missing(lacking)) }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_file_that_is_not_btf_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"not type information at all").unwrap();
        assert!(matches!(Btf::read(file.path()), Err(BtfError::Malformed { at: 0, .. })));
    }

    #[test]
    fn what_is_lost_is_said_of_every_optional_field() {
        for spec in FIELDS {
            assert_eq!(spec.field.without().is_empty(), spec.required || spec.door, "{}", spec.names[0]);
        }
    }

    #[test]
    fn this_kernels_fields_are_found() {
        let Ok(btf) = Btf::read(Path::new(VMLINUX)) else { return };
        let resolved = btf.fields().unwrap();
        assert!(resolved.offsets[Field::TaskTgid as usize] > 0);
        assert!(btf.resolve("task_struct.no_such_member").is_none());
    }
}
