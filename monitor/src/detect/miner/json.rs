//! A tolerant, bounded reader of the first bytes of a JSON value: keys and scalars with the path
//! that leads to them. The text may end anywhere; what came before still counts.

/// Deepest nesting followed.
const DEPTH: usize = 8;
/// Most scalars kept.
const FIELDS: usize = 64;

/// A scalar (string, number or word) and the keys that lead to it; array elements add none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Keys from the outside in, joined with `.`.
    pub path: String,
    /// The value, strings unescaped.
    pub value: String,
}

/// Reads one value from the start of `text`. Returns its scalars and how many bytes it took; `None`
/// for the length when the text ended inside it.
pub fn read(text: &[u8]) -> (Vec<Field>, Option<usize>) {
    let mut reader = Reader { text, at: 0, fields: Vec::new(), path: Vec::new() };
    let complete = reader.value(0).is_some();
    let end = complete.then_some(reader.at);
    (reader.fields, end)
}

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
    fields: Vec<Field>,
    path: Vec<String>,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn space(&mut self) {
        while self.peek().is_some_and(|b| b.is_ascii_whitespace()) {
            self.at += 1;
        }
    }

    fn value(&mut self, depth: usize) -> Option<()> {
        if depth > DEPTH {
            return None;
        }
        self.space();
        match self.peek()? {
            b'{' => self.object(depth),
            b'[' => self.array(depth),
            b'"' => {
                let value = self.string()?;
                self.keep(value);
                Some(())
            }
            _ => self.word(),
        }
    }

    fn object(&mut self, depth: usize) -> Option<()> {
        self.at += 1;
        loop {
            self.space();
            match self.peek()? {
                b'}' => {
                    self.at += 1;
                    return Some(());
                }
                b',' => self.at += 1,
                b'"' => {
                    let key = self.string()?;
                    self.space();
                    if self.peek()? != b':' {
                        return None;
                    }
                    self.at += 1;
                    self.path.push(key);
                    self.value(depth + 1)?;
                    self.path.pop();
                }
                _ => return None,
            }
        }
    }

    fn array(&mut self, depth: usize) -> Option<()> {
        self.at += 1;
        loop {
            self.space();
            match self.peek()? {
                b']' => {
                    self.at += 1;
                    return Some(());
                }
                b',' => self.at += 1,
                _ => self.value(depth + 1)?,
            }
        }
    }

    /// A number, `true`, `false` or `null`.
    fn word(&mut self) -> Option<()> {
        let start = self.at;
        while self.peek().is_some_and(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'+' | b'.')) {
            self.at += 1;
        }
        if self.at == start {
            return None;
        }
        let value = String::from_utf8_lossy(&self.text[start..self.at]).into_owned();
        self.keep(value);
        Some(())
    }

    fn string(&mut self) -> Option<String> {
        self.at += 1;
        let mut bytes = Vec::new();
        loop {
            let byte = self.peek()?;
            self.at += 1;
            match byte {
                b'"' => return Some(String::from_utf8_lossy(&bytes).into_owned()),
                b'\\' => {
                    let escaped = self.peek()?;
                    self.at += 1;
                    if escaped == b'u' {
                        let digits = self.text.get(self.at..self.at + 4)?;
                        self.at += 4;
                        let code = std::str::from_utf8(digits)
                            .ok()
                            .and_then(|d| u32::from_str_radix(d, 16).ok())
                            .and_then(char::from_u32)
                            .unwrap_or('\u{fffd}');
                        bytes.extend_from_slice(code.encode_utf8(&mut [0; 4]).as_bytes());
                    } else {
                        bytes.push(escaped);
                    }
                }
                other => bytes.push(other),
            }
        }
    }

    fn keep(&mut self, value: String) {
        if self.fields.len() < FIELDS {
            self.fields.push(Field { path: self.path.join("."), value });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn get<'a>(fields: &'a [Field], path: &str) -> Option<&'a str> {
        fields.iter().find(|f| f.path == path).map(|f| f.value.as_str())
    }

    #[test]
    fn paths_and_escapes() {
        let (f, end) = read(br#"{"id":1,"method":"\u006cogin","params":{"a":["x",{"b":true}]}} rest"#);
        assert_eq!(get(&f, "method"), Some("login"));
        assert_eq!(get(&f, "params.a"), Some("x"));
        assert_eq!(get(&f, "params.a.b"), Some("true"));
        assert_eq!(end, Some(62));
    }

    #[test]
    fn a_cut_text_gives_what_it_has() {
        let (f, end) = read(br#"{"method":"login","params":{"login":"4abc","pa"#);
        assert_eq!(get(&f, "params.login"), Some("4abc"));
        assert_eq!(end, None);
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = read(&bytes);
        }

        #[test]
        fn never_panics_on_json_like(text in r#"[\[\]{}",:\\u0-9a-f ]{0,300}"#) {
            let _ = read(text.as_bytes());
        }
    }
}
