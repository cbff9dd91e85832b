//! What of a file's name was made up at run time: random parts, uuids, hashes, ids, versions. Nothing of the image's own
//! files passes here: those are the same in every container of it.

/// Digits that are an id rather than part of a name (`ttyS0`, `x86_64`, `python3`).
const ID_DIGITS: usize = 4;
/// Hex digits that are a hash rather than a word (`facade`, `dead`).
const HASH_DIGITS: usize = 8;
/// Characters of a made-up part: mktemp(1) and Python's tempfile make 6 to 10.
const RANDOM_MIN: usize = 6;

/// One component of a path with what is made up replaced by `*`.
pub(super) fn component(name: &str) -> String {
    if let Some(prefix) = temporary(name) {
        return format!("{prefix}*");
    }
    let mut out = String::new();
    for (token, separator) in tokens(name) {
        if is_made_up(token) {
            out.push('*')
        } else {
            out.push_str(token)
        }
        out.push_str(separator);
    }
    joined(&versions(&out))
}

/// `tmp.XXXXXX` of mktemp(1), `tmpXXXXXXXX` of Python, `.XXXXXX` of rsync: letters without rhyme.
fn temporary(name: &str) -> Option<&str> {
    let rest = name.strip_prefix("tmp")?;
    let rest_of = rest.strip_prefix(['.', '-', '_']).unwrap_or(rest);
    let is_letters = rest_of.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let is_long = rest_of.len() >= RANDOM_MIN && rest_of.len() <= 16;
    (is_letters && is_long).then(|| &name[..name.len() - rest_of.len()])
}

/// Words and what stands between them. Dashes within a uuid do not part it.
fn tokens(name: &str) -> Vec<(&str, &str)> {
    let mut out = Vec::new();
    let mut rest = name;
    while !rest.is_empty() {
        let end =
            uuid(rest).unwrap_or_else(|| rest.find(['.', '-', '_', '@', '+', ':', '=', ',']).unwrap_or(rest.len()));
        let (token, after) = rest.split_at(end);
        let width = after.chars().next().map_or(0, char::len_utf8);
        let (separator, next) = after.split_at(width);
        out.push((token, separator));
        rest = next;
    }
    out
}

/// Length of a uuid at the beginning.
fn uuid(text: &str) -> Option<usize> {
    const GROUPS: [usize; 5] = [8, 4, 4, 4, 12];
    let head = text.get(..36)?;
    let fits = head.split('-').map(str::len).eq(GROUPS) && head.bytes().all(|b| b == b'-' || b.is_ascii_hexdigit());
    let ends = text[36..].chars().next().is_none_or(|c| !c.is_ascii_alphanumeric());
    (fits && ends).then_some(36)
}

fn is_made_up(token: &str) -> bool {
    let digits = token.bytes().filter(u8::is_ascii_digit).count();
    if !token.is_empty() && digits == token.len() {
        return digits >= ID_DIGITS;
    }
    if uuid(token).is_some() {
        return true;
    }
    let is_hex = token.bytes().all(|b| b.is_ascii_hexdigit());
    if is_hex && token.len() >= HASH_DIGITS && digits > 0 {
        return true;
    }
    is_random(token)
}

/// Kinds of characters that change more often than in a name somebody thought of.
fn is_random(token: &str) -> bool {
    if token.len() < RANDOM_MIN || !token.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return false;
    }
    let kind = |b: u8| match b {
        b'0'..=b'9' => 0u8,
        b'a'..=b'z' => 1,
        _ => 2,
    };
    let kinds: Vec<u8> = token.bytes().map(kind).collect();
    let has = |wanted: u8| kinds.contains(&wanted);
    // `CamelCase` begins each word with one capital: that is no change of kind.
    let changes = kinds.windows(2).filter(|pair| pair[0] != pair[1] && !(pair[0] == 2 && pair[1] == 1)).count();
    let classes = [0, 1, 2].into_iter().filter(|class| has(*class)).count();
    match classes {
        3 => changes >= 3,
        2 if has(0) => changes >= 3,
        _ => false,
    }
}

/// `1.2.3` is a version: two dots and more between short numbers.
fn versions(name: &str) -> String {
    let parts: Vec<&str> = name.split('.').collect();
    let numeric = |part: &str| !part.is_empty() && part.len() <= 3 && part.bytes().all(|b| b.is_ascii_digit());
    let mut out: Vec<String> = Vec::new();
    let mut at = 0;
    while at < parts.len() {
        // The first number may stand behind a name: `app-1.2.3`.
        let head = parts[at];
        let lead = head.trim_end_matches(|c: char| c.is_ascii_digit());
        let starts = head.len() > lead.len()
            && head.len() - lead.len() <= 3
            && (lead.is_empty() || lead.ends_with(['-', '_', 'v']));
        let run = parts[at + 1..].iter().take_while(|part| numeric(part)).count();
        if starts && run >= 2 {
            out.push(format!("{lead}*"));
            at += 1 + run;
        } else {
            out.push(head.to_owned());
            at += 1;
        }
    }
    out.join(".")
}

/// `*-*` and `**` say no more than `*`.
fn joined(name: &str) -> String {
    let mut out = name.to_owned();
    for run in ["**", "*-*", "*_*", "*.*"] {
        while out.contains(run) {
            out = out.replace(run, "*");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::component;

    #[test]
    fn what_is_made_up_goes() {
        for (name, wanted) in [
            ("tmp.aB3dE9xYzQ", "tmp.*"),
            ("tmpqwertzui", "tmp*"),
            ("tmp_k3x9qa", "tmp_*"),
            ("123e4567-e89b-12d3-a456-426614174000", "*"),
            ("cache-123e4567-e89b-12d3-a456-426614174000.db", "cache-*.db"),
            ("worker.48213.sock", "worker.*.sock"),
            ("hsperfdata_31337", "hsperfdata_*"),
            ("9f86d081884c7d65", "*"),
            ("layer-9f86d081884c.tar", "layer-*.tar"),
            ("app-1.22.333", "app-*"),
            ("app-1.22.333.jar", "app-*.jar"),
            ("libfoo.so.1.2.3", "libfoo.so.*"),
            ("x7Kq2LmZ", "*"),
            ("2026-11-23", "*-11-23"),
        ] {
            assert_eq!(component(name), wanted, "{name}");
        }
    }

    #[test]
    fn what_somebody_named_stays() {
        for name in [
            "python3.11",
            "bash",
            "x86_64-linux-gnu",
            "ld-linux-x86-64.so.2",
            "facade",
            "deadbeef",
            "CatalinaManager",
            "docker-entrypoint.sh",
            "authorized_keys",
            "ib_logfile0",
            "tmp",
            "tmpfiles.d",
            "node18",
            "java-17-openjdk",
            "HelloWorld2",
            "s6-svscan",
            "base64",
            "cron.d",
            "ibdata1",
            "lib64",
            "web.xml",
            "my.cnf",
            "libssl.so.3",
        ] {
            assert_eq!(component(name), name, "{name}");
        }
    }
}
