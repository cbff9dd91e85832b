//! Rows from files that the daemon wrote.

use crate::output::Row;
use crate::output::record::Alert;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

/// Rotated files looked for.
const ROTATED: u32 = 1000;

/// What was read.
#[derive(Debug, Default)]
pub struct Log {
    /// Alerts and responses, in the order of the files.
    pub rows: Vec<Row>,
    /// Lines that are no row of ours.
    pub skipped: usize,
}

impl Log {
    /// Takes a line in.
    pub fn line(&mut self, line: &str) {
        match serde_json::from_str(line) {
            Ok(Row::Notice(_)) => {}
            Ok(row) => self.rows.push(row),
            Err(_) if line.trim().is_empty() => {}
            Err(_) => self.skipped += 1,
        }
    }

    /// Takes a file in. A line that is not UTF-8 counts as none of ours.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn file(&mut self, path: &Path) -> io::Result<()> {
        let mut reader = BufReader::new(File::open(path)?);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line)? > 0 {
            self.line(&String::from_utf8_lossy(&line));
            line.clear();
        }
        Ok(())
    }
}

/// A rotated file's parts that exist, the oldest first.
pub fn parts(path: &Path) -> Vec<PathBuf> {
    let rotated = |number: u32| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{number}"));
        PathBuf::from(name)
    };
    let mut found: Vec<PathBuf> = (1..=ROTATED).map(rotated).take_while(|part| part.exists()).collect();
    found.reverse();
    found.push(path.to_owned());
    found
}

/// The alerts in the last bytes of a file; none if there is no such file.
pub fn last_alerts(path: &Path, bytes: u64) -> Vec<Alert> {
    let read = || -> io::Result<String> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(bytes)))?;
        let mut tail = Vec::new();
        file.take(bytes).read_to_end(&mut tail)?;
        Ok(String::from_utf8_lossy(&tail).into_owned())
    };
    let text = read().unwrap_or_default();
    let alerts = text.lines().filter_map(|line| match serde_json::from_str(line) {
        Ok(Row::Alert(alert)) => Some(*alert),
        _ => None,
    });
    alerts.collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::output::samples;

    #[test]
    fn rows_of_all_parts_in_order_and_what_is_no_row() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("alerts.jsonl");
        let row = |id: &str| {
            let mut finding = samples::reverse_shell();
            finding.id = id.into();
            format!("{}\n", serde_json::to_string(&samples::row(&finding)).unwrap())
        };
        std::fs::write(&path, format!("{}no row\n\n", row("c"))).unwrap();
        std::fs::write(folder.path().join("alerts.jsonl.1"), row("b")).unwrap();
        std::fs::write(folder.path().join("alerts.jsonl.2"), [row("a").as_bytes(), b"\xff\n"].concat()).unwrap();
        let mut log = Log::default();
        for part in parts(&path) {
            log.file(&part).unwrap();
        }
        let ids: Vec<_> = log
            .rows
            .iter()
            .map(|row| match row {
                Row::Alert(alert) => alert.event.id.clone(),
                _ => String::new(),
            })
            .collect();
        assert_eq!((ids, log.skipped), (vec!["a".to_owned(), "b".into(), "c".into()], 2));
        assert_eq!(last_alerts(&path, 1 << 20).len(), 1);
        assert!(last_alerts(&path, 40).is_empty(), "a row that was cut is none");
        assert!(last_alerts(Path::new("/nonexistent"), 40).is_empty());
    }
}
