//! DNS answers: the question's name and the addresses given for it. RFC 1035, one question, no
//! compression in the question, a bounded number of records.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Most records read.
const RECORDS: usize = 32;
/// Longest name, bytes (RFC 1035).
const NAME: usize = 255;

/// An answer to one question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Name asked for, lower case, without the final dot.
    pub name: String,
    /// Addresses given.
    pub addresses: Vec<IpAddr>,
}

/// Reads a message; `None` unless it is an answer with a question in it.
pub fn answer(message: &[u8]) -> Option<Answer> {
    let word = |at: usize| Some(u16::from_be_bytes(message.get(at..at + 2)?.try_into().ok()?));
    let response = word(2)? & 0x8000 != 0;
    if !response || word(4)? != 1 {
        return None;
    }
    let (name, mut at) = question(message, 12)?;
    at += 4;
    let mut addresses = Vec::new();
    for _ in 0..usize::from(word(6)?).min(RECORDS) {
        let Some(start) = skip_name(message, at) else {
            break;
        };
        let (Some(kind), Some(length)) = (word(start), word(start + 8)) else {
            break;
        };
        let data = start + 10;
        let Some(bytes) = message.get(data..data + usize::from(length)) else {
            break;
        };
        match kind {
            1 => addresses.extend(<[u8; 4]>::try_from(bytes).ok().map(|b| IpAddr::V4(Ipv4Addr::from(b)))),
            28 => addresses.extend(<[u8; 16]>::try_from(bytes).ok().map(|b| IpAddr::V6(Ipv6Addr::from(b)))),
            _ => {}
        }
        at = data + usize::from(length);
    }
    Some(Answer { name, addresses })
}

/// The question's name and the offset behind it.
fn question(message: &[u8], mut at: usize) -> Option<(String, usize)> {
    let mut name = String::new();
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1;
        match length {
            0 => return Some((name, at)),
            1..=63 => {
                let label = message.get(at..at + length)?;
                if !name.is_empty() {
                    name.push('.');
                }
                name.push_str(&String::from_utf8_lossy(label).to_ascii_lowercase());
                at += length;
            }
            _ => return None,
        }
        if name.len() > NAME {
            return None;
        }
    }
}

/// The offset behind a possibly compressed name.
fn skip_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let length = *message.get(at)?;
        match length {
            0 => return Some(at + 1),
            l if l & 0xc0 == 0xc0 => return Some(at + 2),
            l if l & 0xc0 == 0 => at += usize::from(l) + 1,
            _ => return None,
        }
    }
}

#[cfg(test)]
pub(crate) fn sample(name: &str, address: [u8; 4]) -> Vec<u8> {
    let mut m = vec![0, 7, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0];
    for label in name.split('.') {
        m.push(u8::try_from(label.len()).unwrap_or(0));
        m.extend_from_slice(label.as_bytes());
    }
    m.extend_from_slice(&[0, 0, 1, 0, 1, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
    m.extend_from_slice(&address);
    m
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_answer() {
        let a = answer(&sample("Pool.minexmr.com", [203, 0, 113, 66]));
        let wanted =
            Answer { name: "pool.minexmr.com".to_owned(), addresses: vec![IpAddr::V4(Ipv4Addr::new(203, 0, 113, 66))] };
        assert_eq!(a, Some(wanted));
    }

    #[test]
    fn a_question_is_no_answer() {
        let mut m = sample("a.b", [1, 2, 3, 4]);
        m[2] = 1;
        assert_eq!(answer(&m), None);
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = answer(&bytes);
        }

        #[test]
        fn never_panics_when_cut(cut in 0usize..64) {
            let m = sample("pool.minexmr.com", [1, 2, 3, 4]);
            let _ = answer(&m[..cut.min(m.len())]);
        }
    }
}
