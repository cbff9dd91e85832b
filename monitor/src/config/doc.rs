//! Sections that carry their own documentation: one declaration gives the type, its defaults, its
//! serde rules and the text of the sample file. Rendering is in `sample`.

/// One documented key.
#[derive(Clone, Debug)]
pub struct Key {
    /// Name in the file.
    pub name: &'static str,
    /// Doc comment, one line a line.
    pub doc: &'static str,
    /// Its default as TOML; `None` if there is none.
    pub default: Option<String>,
    /// A value to show where there is no default, or where the default is an empty list.
    pub example: Option<&'static str>,
}

/// A table of the file.
pub trait Section {
    /// Doc comment of the table.
    const DOC: &'static str;
    /// Its keys, in the order of the file.
    fn keys() -> Vec<Key>;
}

/// The TOML spelling of a value.
pub(super) fn literal<T: serde::Serialize>(value: &T) -> Option<String> {
    toml::Value::try_from(value).ok().map(|v| v.to_string())
}

/// Declares a table: doc comment, key, type, default, and where useful an example.
macro_rules! section {
    (
        $(#[doc = $section_doc:literal])+
        $name:ident {
            $($(#[doc = $doc:literal])+ $key:ident: $ty:ty = $default:expr $(, example $example:literal)?;)+
        }
    ) => {
        $(#[doc = $section_doc])+
        #[derive(Clone, Debug, PartialEq, serde::Deserialize, serde::Serialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name {
            $($(#[doc = $doc])+ pub $key: $ty,)+
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($key: $default,)+ }
            }
        }

        impl $crate::config::doc::Section for $name {
            const DOC: &'static str = concat!($($section_doc, "\n"),+);

            fn keys() -> Vec<$crate::config::doc::Key> {
                let default = Self::default();
                vec![$($crate::config::doc::Key {
                    name: stringify!($key),
                    doc: concat!($($doc, "\n"),+),
                    default: $crate::config::doc::literal(&default.$key),
                    example: [$(Some($example),)? None::<&'static str>][0],
                }),+]
            }
        }
    };
}
pub(super) use section;
