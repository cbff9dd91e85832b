//! Which guests there are.

use anyhow::Result;
use std::fmt;

/// Cgroup hierarchies a guest mounts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Layout {
    /// Controllers of version 1 only.
    V1,
    /// Controllers of version 1, and a version 2 tree beside them.
    Hybrid,
    /// Version 2 only.
    #[default]
    V2,
}

impl fmt::Display for Layout {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::V1 => "v1",
            Self::Hybrid => "hybrid",
            Self::V2 => "v2",
        })
    }
}

/// One guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Boot {
    /// Kernel series, as `5.10`; `7` is the newest of 7.x.
    pub series: String,
    /// Whether `bpf` is among the security modules.
    pub lsm: bool,
    /// Its cgroups.
    pub layout: Layout,
}

impl fmt::Display for Boot {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {} {}", self.series, if self.lsm { "lsm" } else { "no-lsm" }, self.layout)
    }
}

impl Boot {
    /// For names of folders.
    pub fn slug(&self) -> String {
        self.to_string().replace(' ', "-")
    }
}

/// Every kernel with and without `bpf` in its list, the cgroup layouts spread over them: each layout meets
/// an old and a new kernel, and both lists.
pub fn all() -> Vec<Boot> {
    use Layout::{Hybrid, V1, V2};
    [("5.10", V2, V1), ("6.1", Hybrid, V2), ("6.12", V2, Hybrid), ("6.18", V1, V2), ("7", V2, Hybrid)]
        .into_iter()
        .flat_map(|(series, with, without)| {
            [(true, with), (false, without)].map(|(lsm, layout)| Boot { series: series.to_owned(), lsm, layout })
        })
        .collect()
}

/// Each kernel once, every layout and both lists among them: what `cargo xtask test` boots.
pub fn each_kernel() -> Vec<Boot> {
    let with = |boot: &Boot| match boot.series.as_str() {
        "6.12" | "7" => !boot.lsm,
        _ => boot.lsm,
    };
    all().into_iter().filter(with).collect()
}

/// Is a boot the first or the last of its layout among those of a run? They run what depends on the layout.
pub fn is_outermost(boot: &Boot, boots: &[Boot]) -> bool {
    let mut alike = boots.iter().filter(|other| other.layout == boot.layout);
    alike.next() == Some(boot) || alike.next_back() == Some(boot)
}

/// A series is numbers and dots: it becomes part of package names.
pub fn parse_series(text: &str) -> Result<String, String> {
    let good =
        !text.is_empty() && text.split('.').all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()));
    if good { Ok(text.to_owned()) } else { Err("a kernel series is written like 6.12".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_has_both_lists_and_every_layout_is_met() {
        let boots = all();
        assert!(boots.len() >= 10);
        for boot in &boots {
            assert!(boots.iter().any(|other| other.series == boot.series && other.lsm != boot.lsm), "{boot}");
        }
        for layout in [Layout::V1, Layout::Hybrid, Layout::V2] {
            assert!(boots.iter().any(|boot| boot.layout == layout && boot.lsm), "{layout}");
            assert!(boots.iter().any(|boot| boot.layout == layout && !boot.lsm), "{layout}");
        }
    }

    #[test]
    fn each_kernel_is_there_once_and_every_layout_and_list() {
        let (all, some) = (all(), each_kernel());
        for boot in &all {
            assert_eq!(some.iter().filter(|other| other.series == boot.series).count(), 1, "{boot}");
            assert!(some.iter().any(|other| other.layout == boot.layout), "{boot}");
            assert!(some.iter().any(|other| other.lsm == boot.lsm), "{boot}");
        }
    }

    #[test]
    fn the_outermost_are_an_old_and_a_new_kernel() {
        let boots = all();
        for (layout, expected) in [(Layout::V1, ["5.10", "6.18"]), (Layout::V2, ["5.10", "7"])] {
            let found = boots.iter().filter(|boot| boot.layout == layout && is_outermost(boot, &boots));
            assert_eq!(found.map(|boot| boot.series.as_str()).collect::<Vec<_>>(), expected, "{layout}");
        }
        assert!(is_outermost(&boots[3], &boots[3..4]), "alone");
    }

    #[test]
    fn a_series_is_numbers() {
        assert!(parse_series("6.12").is_ok() && parse_series("7").is_ok());
        assert!(parse_series("6.").is_err() && parse_series(".*").is_err());
    }
}
