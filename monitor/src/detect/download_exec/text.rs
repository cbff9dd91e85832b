//! Program text that is named, or carried, by an argument.

use crate::argv;
use crate::detect::bounded::Bounded;
use crate::detect::context::Context;
use crate::event::{Event, Exec, File, Form, Inode, Payload, ProcessKey, Stdio, file, state};
use crate::provenance::Program;
use monitor_common::exec::EXEC_STDIN_TAINTED;
use smol_str::SmolStr;

/// Names under which a process opens its own standard input.
const STDIN_NAMES: &[&str] = &["/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"];
/// How long text that arrived may take until it is an argument, ns.
const ARRIVAL_NS: u64 = 5_000_000_000;
/// Receiving processes remembered, by parent.
const ARRIVALS: usize = 128;
/// Bytes of received text kept per parent.
const KEPT: usize = 1024;
/// Shortest text that can be recognised: shorter ones occur by chance.
const SHORTEST: usize = 8;
/// The same for text behind words of the program's own (`set -e; $(curl …)`): they may stand in what came.
const SHORTEST_BEHIND: usize = 16;

/// First operand of an interpreter's command line.
fn operand(args: &[SmolStr]) -> Option<&str> {
    args.iter().skip(1).map(SmolStr::as_str).find(|a| !a.starts_with(['-', '+']))
}

/// The text after `-c`.
fn command(args: &[SmolStr]) -> Option<&str> {
    let at = args.iter().skip(1).position(|a| a.starts_with('-') && !a.starts_with("--") && a.contains('c'))?;
    args.get(at + 2).map(SmolStr::as_str)
}

/// Is the text an argument? The kernel half has not seen an option that stands behind a long one.
fn is_argument(exec: &Exec) -> bool {
    let options = if exec.task_flags & state::TASK_SHELL != 0 {
        state::CLASS_SHELL | state::CLASS_FLAG_C
    } else {
        // Which of them the interpreter has is not known here; what follows is compared with what came.
        state::CLASS_INTERPRETER | state::CLASS_FLAG_C | state::CLASS_FLAG_E | state::CLASS_FLAG_R
    };
    match exec.form {
        Form::Unknown => argv::form(&exec.args, exec.args_cut, options, 1) == Form::Argument,
        form => form == Form::Argument,
    }
}

fn stdin_is_tainted(exec: &Exec) -> bool {
    exec.flags & EXEC_STDIN_TAINTED != 0
}

/// `curl … | sh /dev/stdin`, `curl … | bash -c '. /dev/stdin'`, `… | bash -c 'eval "$(cat)"'`.
pub fn from_stdin(exec: &Exec) -> Option<(&'static str, String)> {
    let reader = exec.task_flags & (state::TASK_SHELL | state::TASK_INTERPRETER) != 0;
    if !reader || !stdin_is_tainted(exec) {
        return None;
    }
    let by_operand = exec.form == Form::Script && operand(&exec.args).is_some_and(|o| STDIN_NAMES.contains(&o));
    let by_text = exec.task_flags & state::TASK_SHELL != 0
        && is_argument(exec)
        && command(&exec.args).is_some_and(evaluates_stdin);
    (by_operand || by_text)
        .then(|| ("stdin_from_network", "runs its standard input, which carries bytes from the network".to_owned()))
}

fn evaluates_stdin(text: &str) -> bool {
    let words: Vec<&str> = text.split_whitespace().collect();
    let sources = words
        .windows(2)
        .any(|w| matches!(w[0], "." | "source") && STDIN_NAMES.contains(&w[1].trim_matches(['"', '\'', ';'])));
    let squeezed: String = text.chars().filter(|c| !c.is_whitespace() && *c != '"').collect();
    sources || squeezed.contains("eval$(cat)") || squeezed.contains("eval`cat`")
}

/// `curl … | xargs -0 sh -c`: the reader of the pipe hands what it read to a shell as text. The
/// honest form has its text on xargs' own command line, perhaps with a `{}` in it.
pub fn from_xargs(exec: &Exec, cx: &Context<'_>) -> Option<(&'static str, String)> {
    if exec.task_flags & state::TASK_SHELL == 0 || !is_argument(exec) {
        return None;
    }
    let text = command(&exec.args)?;
    let parent = cx.processes.get(exec.parent)?;
    let reads_net = parent.has(state::TASK_TAINTED)
        && parent.program.exec_flags & EXEC_STDIN_TAINTED != 0
        && !parent.has(state::TASK_SHELL | state::TASK_INTERPRETER);
    if !reads_net || parent.program.args.iter().any(|a| is_template_of(a, text)) {
        return None;
    }
    Some(("text_as_argument", "was given its program text by a reader of the network".to_owned()))
}

/// Is the text the reader's own words (`awk '{print | "sort | head -1"}'`), or made of them?
fn is_template_of(template: &str, text: &str) -> bool {
    !text.is_empty() && template.contains(text)
        || template
            .split_once("{}")
            .is_some_and(|(head, tail)| head.len() + tail.len() >= 2 && text.starts_with(head) && text.ends_with(tail))
}

/// Is the file the interpreter's script operand, also when it is named by descriptor
/// (`bash <(curl …)` has `/dev/fd/63`)? A FIFO read as data has another operand, or none.
pub fn is_its_script(program: &Program, opened: &File) -> bool {
    if program.form != Form::Script {
        return false;
    }
    operand(&program.args).is_some_and(|o| {
        let by_fd = o.starts_with("/dev/fd/") || o.starts_with("/proc/self/fd/");
        by_fd && opened.has(file::FILE_FIFO)
            || !by_fd && !opened.name().is_empty() && o.rsplit('/').next() == Some(opened.name())
    })
}

/// Does the shell's `-c` text source the file (`. ./f`, `source <(curl …)`)?
pub fn is_sourced(args: &[SmolStr], opened: &File) -> bool {
    let Some(text) = command(args) else {
        return false;
    };
    let words: Vec<&str> = text.split([' ', '\t', '\n', ';', '&', '|']).filter(|w| !w.is_empty()).collect();
    words.windows(2).any(|w| {
        let name = w[1].trim_matches(['"', '\'']);
        matches!(w[0], "." | "source")
            && (opened.has(file::FILE_FIFO) && name.starts_with("<(")
                || !opened.name().is_empty() && name.rsplit('/').next() == Some(opened.name()))
    })
}

/// Is something that arrived run by the shell's `text`: does it stand where a command begins? In `echo $V` it does not.
fn runs(text: &str, arrived: &[u8]) -> bool {
    commands(text).any(|(at, rest)| {
        let head = &rest.as_bytes()[..rest.len().min(64)];
        let shortest = if at == 0 { SHORTEST } else { SHORTEST_BEHIND };
        head.len() >= shortest && arrived.windows(head.len()).any(|w| w == head)
    })
}

/// Where commands begin in a shell's text, and what is there: at its start, and behind `;`, `&` and `|` out of quotes. A
/// here-document is data.
fn commands(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let is_document = text.contains("<<");
    let mut quoted = None;
    let behind = text.char_indices().filter_map(move |(at, c)| {
        match quoted {
            Some(quote) if quote == c => quoted = None,
            None if matches!(c, '"' | '\'') => quoted = Some(c),
            _ => {}
        }
        (quoted.is_none() && !is_document && matches!(c, ';' | '&' | '|')).then(|| at + c.len_utf8())
    });
    std::iter::once(0).chain(behind).filter_map(|at| Some((at, text.get(at..)?.trim_start_matches(' '))))
}

/// Text that arrived lately, by the parent of the process that received it.
#[derive(Debug)]
pub struct Arrivals {
    by_parent: Bounded<ProcessKey, Arrived>,
}

/// What came, until when, and the pipe it went into.
#[derive(Debug)]
struct Arrived {
    bytes: Vec<u8>,
    at_ns: u64,
    into: Inode,
}

impl Default for Arrivals {
    fn default() -> Self {
        Self { by_parent: Bounded::new(ARRIVALS) }
    }
}

impl Arrivals {
    /// Remembers what a child with its output on a pipe received.
    pub fn payload(&mut self, event: &Event, payload: &Payload, cx: &Context<'_>) {
        if !payload.inbound {
            return;
        }
        let Some(process) = cx.process(event) else {
            return;
        };
        let (Some(parent), Stdio::Pipe(into)) = (process.parent, &process.program.stdio[1]) else {
            return;
        };
        let make = || Arrived { bytes: Vec::new(), at_ns: event.time_ns, into: *into };
        if let Some(arrived) = self.by_parent.entry(parent, make) {
            if event.time_ns.saturating_sub(arrived.at_ns) > ARRIVAL_NS {
                arrived.bytes.clear();
            }
            arrived.at_ns = event.time_ns;
            arrived.into = *into;
            arrived.bytes.extend_from_slice(&payload.data);
            let excess = arrived.bytes.len().saturating_sub(KEPT);
            arrived.bytes.drain(..excess);
        }
    }

    /// `sh -c "$(curl …)"`: the text of `-c` is what a sibling has just received. `V=$(curl …)`
    /// starts no shell, and `sh -c "echo $V"` has words of its own.
    pub fn as_argument(&self, event: &Event, exec: &Exec, cx: &Context<'_>) -> Option<(&'static str, String)> {
        let reader = exec.task_flags & (state::TASK_SHELL | state::TASK_INTERPRETER) != 0;
        if !reader || !is_argument(exec) {
            return None;
        }
        // The shell may be the parent's own child (dash), or the parent itself (`exec sh -c …`).
        let arrived = std::iter::once(event.process)
            .chain(cx.processes.same_program(exec.parent).map(|p| p.key))
            .find_map(|key| self.by_parent.get(&key))
            .or_else(|| self.read_by(exec.parent, cx))?;
        let text =
            command(&exec.args).or_else(|| exec.args.last().map(SmolStr::as_str)).map(|t| t.trim_end_matches('\n'))?;
        let fresh = event.time_ns.saturating_sub(arrived.at_ns) <= ARRIVAL_NS;
        (fresh && runs(text, &arrived.bytes))
            .then(|| ("text_as_argument", "was given program text that had just come from the network".to_owned()))
    }
    /// What went into the pipe that `reader` reads (`… | xargs sh -c`).
    fn read_by(&self, reader: ProcessKey, cx: &Context<'_>) -> Option<&Arrived> {
        let reader = cx.processes.get(reader)?;
        let arrived = self.by_parent.get(&reader.parent?)?;
        (reader.program.stdio[0] == Stdio::Pipe(arrived.into)).then_some(arrived)
    }
}
