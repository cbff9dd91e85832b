//! Finding words in a scenario's texts.

/// May stand in a file's name without being quoted.
pub fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || "._-".contains(c)
}

/// Where `name` stands in `text` as a whole word.
pub fn whole<'a>(text: &'a str, name: &'a str) -> impl Iterator<Item = usize> + 'a {
    text.match_indices(name).map(|(at, _)| at).filter(move |at| {
        let before = text[..*at].chars().next_back();
        let after = &text[at + name.len()..];
        let mut following = after.chars();
        let ends = match following.next() {
            // A full stop that ends a sentence is not part of the name.
            Some('.') => !following.next().is_some_and(is_name),
            Some(c) => !is_name(c),
            None => true,
        };
        ends && !before.is_some_and(is_name)
    })
}

/// Puts `other` wherever `name` stands as a whole word in `text`.
pub fn replace(text: &mut String, name: &str, other: &str) {
    let places: Vec<usize> = whole(text, name).collect();
    for at in places.into_iter().rev() {
        text.replace_range(at..at + name.len(), other);
    }
}
