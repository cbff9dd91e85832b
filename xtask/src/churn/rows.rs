//! What the monitor said about which container.

use super::load::Made;
use anyhow::{Context, Result};
use serde::Deserialize;
use std::collections::HashMap;
use std::fs;
use std::path::Path;

/// As much of an alert row as counts here.
#[derive(Debug, Deserialize)]
struct Row {
    event: RowEvent,
    #[serde(default)]
    container: RowContainer,
}

#[derive(Debug, Deserialize)]
struct RowEvent {
    #[serde(default)]
    action: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct RowContainer {
    id: String,
    name: String,
    image: RowImage,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct RowImage {
    name: String,
}

/// What was said about one container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// Name and image of the first row.
    pub first: (String, String),
    /// Of the last: the same, unless an amendment followed.
    pub last: (String, String),
}

/// Rows about the containers' one act, by container id.
pub fn read(path: &Path) -> Result<HashMap<String, Said>> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    Ok(parse(&text))
}

fn parse(text: &str) -> HashMap<String, Said> {
    let mut said: HashMap<String, Said> = HashMap::new();
    // A line that is still being written does not parse; it will the next time.
    for row in text.lines().filter_map(|line| serde_json::from_str::<Row>(line).ok()) {
        if row.event.action != "kubelet_access" {
            continue;
        }
        let names = (row.container.name, row.container.image.name);
        let entry = said.entry(row.container.id).or_insert_with(|| Said { first: names.clone(), ..Said::default() });
        entry.last = names;
    }
    said
}

/// How many containers were identified how well.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identified {
    /// Containers made.
    pub made: usize,
    /// Of these, containers whose act was reported under their id.
    pub by_id: usize,
    /// Of these, with the right name and image in the first row already.
    pub named_at_once: usize,
    /// Of these, with them by an amendment.
    pub named_later: usize,
    /// Names of some that were missed.
    pub missed: Vec<String>,
    /// Names of some that were reported without name and image, or with others'.
    pub unnamed: Vec<String>,
}

/// Names listed at most.
const LISTED: usize = 10;

impl Identified {
    /// Every container was named, under its id.
    pub fn is_complete(&self) -> bool {
        self.made > 0 && self.by_id == self.made && self.named_at_once + self.named_later == self.made
    }
}

/// Compares what was made with what was said.
pub fn compare(made: &[Made], said: &HashMap<String, Said>, image: &str) -> Identified {
    let mut result = Identified { made: made.len(), ..Identified::default() };
    for one in made {
        let right = |names: &(String, String)| names.0 == one.name && is_image(&names.1, image);
        match said.get(&one.id) {
            None => note(&mut result.missed, &one.name),
            Some(said) => {
                result.by_id += 1;
                match (right(&said.first), right(&said.last)) {
                    (true, true) => result.named_at_once += 1,
                    (false, true) => result.named_later += 1,
                    (_, false) => note(&mut result.unnamed, &one.name),
                }
            }
        }
    }
    result
}

fn note(list: &mut Vec<String>, name: &str) {
    if list.len() < LISTED {
        list.push(name.to_owned());
    }
}

/// The monitor's rows carry the tag in a field of its own.
fn is_image(said: &str, image: &str) -> bool {
    said == image || image.rsplit_once(':').is_some_and(|(name, _tag)| name == said)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(ids: &[&str]) -> Vec<Made> {
        ids.iter().map(|id| Made { id: (*id).to_owned(), name: format!("churn-{id}") }).collect()
    }

    fn row(id: &str, name: &str, image: &str) -> String {
        format!(
            r#"{{"event":{{"kind":"alert","action":"kubelet_access"}},"container":{{"id":"{id}","name":"{name}","image":{{"name":"{image}"}}}}}}"#
        )
    }

    #[test]
    fn at_once_later_never_and_missed_are_told_apart() {
        let text = [
            row("a", "churn-a", "lab/x"),
            row("b", "", ""),
            row("b", "churn-b", "lab/x"),
            row("c", "", ""),
            row("d", "churn-a", "lab/x"),
            r#"{"event":{"kind":"state","action":"started"}}"#.to_owned(),
            row("e", "churn-e", "lab/x").replace("kubelet_access", "drift"),
            row("f", "churn-f", "lab/x")[..40].to_owned(),
        ]
        .join("\n");
        let found = compare(&made(&["a", "b", "c", "d", "e", "f"]), &parse(&text), "lab/x:1");
        assert_eq!((found.by_id, found.named_at_once, found.named_later), (4, 1, 1));
        assert_eq!(found.missed, ["churn-e", "churn-f"]);
        assert_eq!(found.unnamed, ["churn-c", "churn-d"]);
        assert!(!found.is_complete());
    }

    #[test]
    fn complete_is_every_one_named() {
        let text = row("a", "churn-a", "lab/x");
        assert!(compare(&made(&["a"]), &parse(&text), "lab/x:1").is_complete());
        assert!(!compare(&[], &parse(&text), "lab/x:1").is_complete());
        assert!(!compare(&made(&["a"]), &parse(&text), "lab/y:1").is_complete());
    }
}
