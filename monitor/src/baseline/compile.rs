//! Program starts and connections of a baseline as the kernel half compares them: hashes of paths, prefixes of
//! addresses, no patterns and no names.

mod connects;

use super::entry::{Layer, Text, What};
use super::file::Baseline;
use super::pattern::{Pattern, RUNTIME_EXEC, START, UNKNOWN};
pub use connects::{Connects, connects};
use monitor_common::argv::Form;
use monitor_common::profile::{
    ANY, ANY_FORM, ANY_USER, ENTERED, EdgeKey, LAYER_IMAGE, LAYER_MEMORY, LAYER_TMPFS, LAYER_UPPER, LAYER_VOLUME, path,
};

/// All program starts that it expects, or only those of the image's own programs; `None` if one of them is a pattern,
/// which is for the daemon to compare.
pub fn edges(baseline: &Baseline, drift_lock: bool) -> Option<Vec<EdgeKey>> {
    let mut edges = Vec::new();
    for entry in baseline.all() {
        let What::Exec { parent, exe, layer, form, user } = &entry.what else { continue };
        if drift_lock && *layer != Layer::Image {
            continue;
        }
        let parent = match parent.as_str() {
            START | RUNTIME_EXEC => ENTERED,
            // The kernel half knows every parent it judges by.
            UNKNOWN => continue,
            _ => exact(parent)?,
        };
        let edge = EdgeKey {
            parent,
            exe: exact(exe)?,
            profile: 0,
            user: user.unwrap_or(ANY_USER),
            layer: layer_code(*layer),
            form: form.map_or(Form::Unknown, Text::form) as u32,
        };
        edges.extend(form.map(|_| EdgeKey { form: ANY_FORM, ..edge }));
        edges.push(edge);
    }
    edges.sort_unstable();
    edges.dedup();
    Some(edges)
}

fn exact(pattern: &Pattern) -> Option<u64> {
    let text = pattern.as_str();
    if text == "*" {
        return Some(ANY);
    }
    // What was no UTF-8 has another hash in the kernel.
    (!text.contains(['*', char::REPLACEMENT_CHARACTER])).then(|| path(text))
}

const fn layer_code(layer: Layer) -> u32 {
    match layer {
        Layer::Image => LAYER_IMAGE,
        Layer::Upper => LAYER_UPPER,
        Layer::Tmpfs => LAYER_TMPFS,
        Layer::Volume => LAYER_VOLUME,
        Layer::Memory => LAYER_MEMORY,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use std::path::Path;

    fn compiled(body: &str) -> Option<Vec<EdgeKey>> {
        edges(&Baseline::parse(Path::new("x"), &format!("image = \"a\"\nmode = \"protect\"\n{body}")).unwrap(), false)
    }

    #[test]
    fn exact_starts_are_compiled_and_patterns_are_not() {
        let exec = |parent: &str, exe: &str| format!("[[exec]]\nparent = \"{parent}\"\nexe = \"{exe}\"\n");
        let edges = compiled(&format!(
            "{}{}text = \"argument\"\nuser = 7\n[[listen]]\nexe = \"/a\"\nport = \"1\"\n",
            exec("(start)", "/a"),
            exec("*", "/usr/bin/sh")
        ));
        let first = EdgeKey { parent: ENTERED, exe: path("/a"), user: ANY_USER, ..EdgeKey::default() };
        let second = EdgeKey { parent: ANY, exe: path("/usr/bin/sh"), user: 7, form: 2, ..EdgeKey::default() };
        let any_form = EdgeKey { form: ANY_FORM, ..second };
        let sorted = |mut edges: Vec<EdgeKey>| {
            edges.sort_unstable();
            edges
        };
        assert_eq!(edges, Some(sorted(vec![first, second, any_form])));
        assert_eq!(compiled(&exec("/a", "/tmp/x.*")), None);
        assert_eq!(compiled(&exec("(unknown)", "/b")), Some(Vec::new()));
        let drift = format!("image = \"a\"\nmode = \"protect\"\n{}layer = \"tmpfs\"\n", exec("/a", "/tmp/x.*"));
        assert_eq!(super::edges(&Baseline::parse(Path::new("x"), &drift).unwrap(), true), Some(Vec::new()));
    }
}
