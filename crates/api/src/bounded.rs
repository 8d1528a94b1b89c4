//! Lists and maps of a request, refused as soon as they are too long.
//!
//! A check afterwards would come too late: an entry takes ten times as much in memory as it does in JSON.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// A list of at most so many entries.
pub(crate) fn list<'de, D, T, const MAX: usize>(from: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    from.deserialize_seq(List::<T, MAX>(PhantomData))
}

/// The same, or null.
pub(crate) fn list_or_null<'de, D, T, const MAX: usize>(from: D) -> Result<Option<Vec<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct Bounded<T, const MAX: usize>(Vec<T>);

    impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for Bounded<T, MAX> {
        fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
            list::<D, T, MAX>(from).map(Bounded)
        }
    }

    Ok(Option::<Bounded<T, MAX>>::deserialize(from)?.map(|list| list.0))
}

/// A map of at most so many entries.
pub(crate) fn map<'de, D, const MAX: usize>(from: D) -> Result<BTreeMap<String, String>, D::Error>
where
    D: Deserializer<'de>,
{
    from.deserialize_map(Map::<String, MAX>(PhantomData))
}

/// The same with values that are in no error, whatever they are instead of texts.
pub(crate) fn secrets<'de, D, const MAX: usize>(from: D) -> Result<BTreeMap<String, String>, D::Error>
where
    D: Deserializer<'de>,
{
    // Asked for a map, serde_json itself would quote what it found instead.
    from.deserialize_any(Map::<Secret, MAX>(PhantomData))
}

/// An object of JSON. serde alone would take a list of a struct's fields for it as well.
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Fields<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, from: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(from)).map(Object)
            }
        }

        from.deserialize_map(Fields(PhantomData))
    }
}

/// The same as a function.
pub(crate) fn object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Object::deserialize(from).map(|object| object.0)
}

/// A list of at most so many objects.
pub(crate) fn objects<'de, D, T, const MAX: usize>(from: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    let objects = list::<D, Object<T>, MAX>(from)?;
    Ok(objects.into_iter().map(|object| object.0).collect())
}

fn too_many<E: Error>(max: usize) -> E {
    E::custom(format_args!("more than {max} entries"))
}

struct List<T, const MAX: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for List<T, MAX> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Vec<T>, A::Error> {
        let mut list = Vec::new();
        while let Some(entry) = from.next_element()? {
            if list.len() == MAX {
                return Err(too_many(MAX));
            }
            list.push(entry);
        }
        Ok(list)
    }
}

/// What serde would say of a wrong value shows that value.
macro_rules! hidden {
    ($($visit:ident: $type:ty),*) => {
        $(fn $visit<E: Error>(self, _: $type) -> Result<Self::Value, E> {
            Err(E::custom(format_args!("a value of the wrong type, expected {}", &self as &dyn serde::de::Expected)))
        })*
    };
}

struct Map<T, const MAX: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de> + Into<String>, const MAX: usize> Visitor<'de> for Map<T, MAX> {
    type Value = BTreeMap<String, String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a map of texts")
    }

    hidden! { visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_f64: f64, visit_str: &str }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Self::Value, A::Error> {
        let mut map = BTreeMap::new();
        while let Some((key, value)) = from.next_entry::<String, T>()? {
            map.insert(key, value.into());
            if map.len() > MAX {
                return Err(too_many(MAX));
            }
        }
        Ok(map)
    }
}

struct Secret(String);

impl From<Secret> for String {
    fn from(secret: Secret) -> String {
        secret.0
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Text;

        impl Visitor<'_> for Text {
            type Value = Secret;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a text")
            }

            hidden! { visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_f64: f64 }

            fn visit_str<E: Error>(self, text: &str) -> Result<Secret, E> {
                Ok(Secret(text.to_owned()))
            }

            fn visit_string<E: Error>(self, text: String) -> Result<Secret, E> {
                Ok(Secret(text))
            }
        }

        from.deserialize_any(Text)
    }
}

#[cfg(test)]
mod tests {
    use crate::NewExecution;
    use crate::request::{ARGS_MAX, ENV_MAX};

    fn refusal(json: &str) -> String {
        let taken: Result<NewExecution, _> = serde_json::from_str(json);
        taken.err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn what_is_too_long_is_refused_at_its_first_entry_too_many() {
        let words = |count: usize| vec!["\"\""; count].join(",");
        assert_eq!(refusal(&format!(r#"{{"args": [{}]}}"#, words(ARGS_MAX))), "");
        for field in ["args", "command", "compile_flags", "outputs"] {
            // Cut off behind it: nothing that follows was read.
            let error = refusal(&format!(r#"{{"{field}": [{}"#, words(ARGS_MAX + 1) + ",?"));
            assert!(error.contains("more than"), "{field}: {error}");
        }
        for field in ["env", "secrets", "labels"] {
            let entries: Vec<String> = (0..=ENV_MAX).map(|n| format!(r#""k{n}": """#)).collect();
            let error = refusal(&format!(r#"{{"{field}": {{{},?"#, entries.join(",")));
            assert!(error.contains("more than"), "{field}: {error}");
        }
        assert_eq!(refusal(r#"{"command": null, "files": [], "env": {"a": "b"}}"#), "");
    }

    #[test]
    fn an_error_shows_no_secret() {
        for secrets in [
            r#""8417""#,
            "8417",
            "-8417",
            "84.17e1",
            r#"["8417"]"#,
            r#"{"K": 8417}"#,
            r#"{"K": -8417}"#,
            r#"{"K": 84.17}"#,
            r#"{"K": ["8417"]}"#,
            r#"{"K": {"8417": 1}}"#,
            r#"{"K": "8417"#,
        ] {
            let error = refusal(&format!(r#"{{"command": ["true"], "secrets": {secrets}}}"#));
            let shown = error.split(" at line").next().unwrap_or_default();
            assert!(!shown.is_empty() && !shown.contains("84"), "{secrets}: {error}");
        }
        assert_eq!(refusal(r#"{"secrets": {"K": "v"}}"#), "");
    }
}
