//! Users and groups by the image's own /etc/passwd and /etc/group.

use super::{Error, Result};
use std::path::Path;

/// Who a program runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Home folder.
    pub home: String,
}

impl User {
    /// Finds `text` (NAME, UID, NAME:GROUP, UID:GID; empty: root) below `root`.
    ///
    /// # Errors
    /// [`Error::User`] for a name that the image does not know.
    pub fn find(root: &Path, text: &str) -> Result<Self> {
        let read = |name: &str| std::fs::read_to_string(root.join(name)).unwrap_or_default();
        Self::parse(&read("etc/passwd"), &read("etc/group"), text)
    }

    fn parse(passwd: &str, group: &str, text: &str) -> Result<Self> {
        let (name, group_name) = match text.split_once(':') {
            Some((name, group)) => (name, Some(group)),
            None if text.is_empty() => ("0", None),
            None => (text, None),
        };
        let line = passwd
            .lines()
            .map(|line| line.split(':').collect::<Vec<_>>())
            .find(|fields| fields.len() >= 6 && (fields[0] == name || fields[2] == name));
        let mut user = match &line {
            Some(fields) => {
                let number = |at: usize| fields[at].parse().map_err(|_| Error::User(text.to_owned()));
                Self { uid: number(2)?, gid: number(3)?, groups: Vec::new(), home: fields[5].to_owned() }
            }
            // A number need not be in the file.
            None => Self {
                uid: name.parse().map_err(|_| Error::User(text.to_owned()))?,
                gid: 0,
                groups: Vec::new(),
                home: "/".to_owned(),
            },
        };
        let login = line.map_or(name, |fields| fields[0]);
        for fields in group.lines().map(|line| line.split(':').collect::<Vec<_>>()) {
            let (Some(known), Some(gid)) = (fields.first(), fields.get(2).and_then(|gid| gid.parse().ok())) else {
                continue;
            };
            if group_name == Some(*known) {
                user.gid = gid;
            }
            if group_name.is_none() && fields.get(3).is_some_and(|list| list.split(',').any(|one| one == login)) {
                user.groups.push(gid);
            }
        }
        if let Some(gid) = group_name.and_then(|name| name.parse().ok()) {
            user.gid = gid;
        }
        Ok(user)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nlab:x:1000:1000::/home/lab:/bin/sh\n";
    const GROUP: &str = "root:x:0:\nadm:x:4:lab,x\nlab:x:1000:\n";

    #[test]
    fn names_numbers_and_groups() {
        let lab = User::parse(PASSWD, GROUP, "lab").unwrap();
        assert_eq!((lab.uid, lab.gid, lab.groups.as_slice(), lab.home.as_str()), (1000, 1000, &[4][..], "/home/lab"));
        assert_eq!(User::parse(PASSWD, GROUP, "1000").unwrap(), lab);
        let root = User::parse(PASSWD, GROUP, "").unwrap();
        assert_eq!((root.uid, root.home.as_str()), (0, "/root"));
        let other = User::parse(PASSWD, GROUP, "lab:adm").unwrap();
        assert_eq!((other.gid, other.groups.len()), (4, 0));
        let stranger = User::parse(PASSWD, GROUP, "77:88").unwrap();
        assert_eq!((stranger.uid, stranger.gid), (77, 88));
        assert!(matches!(User::parse(PASSWD, GROUP, "nobody"), Err(Error::User(_))));
    }
}
