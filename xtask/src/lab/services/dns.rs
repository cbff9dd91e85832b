//! A name server that knows one answer: the attacker's address, whatever is asked for.

use super::super::{ATTACKER, ATTACKER_V6};

/// Header length of a DNS message (RFC 1035, 4.1.1).
const HEADER: usize = 12;
const TYPE_A: u16 = 1;
const TYPE_PTR: u16 = 12;
const TYPE_TXT: u16 = 16;
const TYPE_AAAA: u16 = 28;

/// Name under which an IPv6 address is given out too. Elsewhere there is none, so that programs that
/// prefer IPv6 still come by IPv4, as scenarios expect.
const IPV6_LABEL: &[u8] = b"v6";

/// Answers one query; nothing for what is none.
pub fn answer(query: &[u8]) -> Option<Vec<u8>> {
    // A response (QR), or not exactly one question: nobody asks like that.
    if query.len() < HEADER || query[2] & 0x80 != 0 || query[4..6] != [0, 1] {
        return None;
    }
    let (first_label, end) = question(query)?;
    let kind = u16::from_be_bytes([query[end - 4], query[end - 3]]);
    let data = match kind {
        TYPE_A => Some(ATTACKER.octets().to_vec()),
        TYPE_AAAA if first_label.eq_ignore_ascii_case(IPV6_LABEL) => Some(ATTACKER_V6.octets().to_vec()),
        TYPE_TXT => Some(b"\x02ok".to_vec()),
        _ => None,
    };
    let mut answer = Vec::with_capacity(end + 32);
    answer.extend_from_slice(&query[..2]);
    // Response, authoritative, recursion desired as asked and available; no such name for PTR.
    let code = if kind == TYPE_PTR { 3 } else { 0 };
    answer.extend_from_slice(&[0x84 | (query[2] & 1), 0x80 | code]);
    answer.extend_from_slice(&[0, 1, 0, u8::from(data.is_some()), 0, 0, 0, 0]);
    answer.extend_from_slice(&query[HEADER..end]);
    if let Some(data) = data {
        // Name: pointer to the question. Class IN, time to live 60 s.
        answer.extend_from_slice(&[0xc0, HEADER as u8]);
        answer.extend_from_slice(&kind.to_be_bytes());
        answer.extend_from_slice(&[0, 1, 0, 0, 0, 60]);
        answer.extend_from_slice(&u16::try_from(data.len()).ok()?.to_be_bytes());
        answer.extend_from_slice(&data);
    }
    Some(answer)
}

/// First label of the question's name, and where the question ends.
fn question(query: &[u8]) -> Option<(&[u8], usize)> {
    let mut at = HEADER;
    let mut first: &[u8] = &[];
    loop {
        let length = usize::from(*query.get(at)?);
        if length == 0 {
            break;
        }
        // Compression has no place in a question.
        if length > 63 {
            return None;
        }
        let label = query.get(at + 1..at + 1 + length)?;
        if at == HEADER {
            first = label;
        }
        at += 1 + length;
    }
    let end = at + 5;
    (end <= query.len()).then_some((first, end))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn ask(kind: u16) -> Vec<u8> {
        let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        query.extend_from_slice(b"\x02xm\x04pool\x07example\x00");
        query.extend_from_slice(&kind.to_be_bytes());
        query.extend_from_slice(&[0, 1]);
        query
    }

    #[test]
    fn every_name_is_the_attacker() {
        let answer = answer(&ask(TYPE_A)).unwrap();
        assert_eq!(&answer[..2], [0x12, 0x34]);
        assert_eq!(answer[7], 1);
        assert!(answer.ends_with(&[0, 4, 203, 0, 113, 66]));
    }

    #[test]
    fn no_ipv6_unless_the_name_asks_for_it() {
        assert_eq!(answer(&ask(TYPE_AAAA)).unwrap()[7], 0);
    }

    #[test]
    fn cut_short_is_no_query() {
        let query = ask(TYPE_A);
        for n in 0..query.len() {
            assert_eq!(answer(&query[..n]), None);
        }
    }
}
