//! `struct cgroup`, `css_set`, `kernfs_node`.

use super::task::Task;
use super::{Object, read};
use crate::maps::{controller, hierarchy};
use monitor_common::field::Field;

/// A cgroup.
#[derive(Clone, Copy)]
pub struct Cgroup(pub Object);

impl Cgroup {
    /// The task's cgroup in the watched hierarchy.
    #[inline(always)]
    pub fn of(task: Task) -> Option<Self> {
        let set = task.css_set()?;
        match controller() {
            None => set.follow(Field::CssSetDefault).map(Self),
            Some(index) => {
                let slot = set.address(Field::CssSetSubsys)?.wrapping_add(index * 8);
                let css = Object::new(read::<*const u8>(slot.cast())?)?;
                css.follow(Field::CssCgroup).map(Self)
            }
        }
    }

    /// Its id: the inode number of its directory.
    #[inline(always)]
    pub fn id(self) -> Option<u64> {
        self.0.follow(Field::CgroupKn)?.get(Field::KernfsId)
    }

    /// Parent cgroup.
    #[inline(always)]
    pub fn parent(self) -> Option<Self> {
        self.0.embedded(Field::CgroupSelf)?.follow(Field::CssParent)?.follow(Field::CssCgroup).map(Self)
    }

    /// Number of its hierarchy.
    #[inline(always)]
    pub fn hierarchy(self) -> Option<u32> {
        self.0.follow(Field::CgroupRoot)?.get(Field::CgroupRootHierarchy)
    }

    /// Is it in the hierarchy containers are told by?
    #[inline(always)]
    pub fn is_watched(self) -> bool {
        self.hierarchy() == Some(hierarchy())
    }

    /// Name of its directory.
    #[inline(always)]
    pub fn name(self) -> Option<Object> {
        self.0.follow(Field::CgroupKn)?.follow(Field::KernfsName)
    }
}
