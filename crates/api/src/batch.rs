//! Many requests in one.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeSeed, Error, IntoDeserializer, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::bounded::list;
use crate::{NewExecution, ProblemDetails, Status};

/// Requests of one batch.
pub const BATCH_MAX: usize = 10_000;
/// Bytes of an idempotency key.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;

const KEY: &str = "idempotency_key";

/// 1 to 255 visible ASCII characters: what may be an idempotency key.
pub fn is_idempotency_key(text: &str) -> bool {
    (1..=IDEMPOTENCY_KEY_BYTES_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Many requests; each is still JSON, so that one which is wrong doesn't spoil the others.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewBatch<'a> {
    #[serde(borrow, deserialize_with = "list::<_, _, BATCH_MAX>")]
    pub executions: Vec<&'a RawValue>,
}

/// One of the requests: all that a request has, and a key of its own.
#[derive(Debug, PartialEq)]
pub struct BatchItem {
    pub new: NewExecution,
    pub idempotency_key: Option<String>,
}

/// Not derived: a flattened request could not refuse unknown fields, and would be held in memory a second time.
impl<'de> Deserialize<'de> for BatchItem {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Item;

        impl<'de> Visitor<'de> for Item {
            type Value = BatchItem;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<BatchItem, A::Error> {
                let mut key = None;
                let fields = Fields { map, key: &mut key };
                let new = NewExecution::deserialize(MapAccessDeserializer::new(fields))?;
                Ok(BatchItem { new, idempotency_key: key.flatten() })
            }
        }

        from.deserialize_map(Item)
    }
}

/// All fields but the key.
struct Fields<'a, A> {
    map: A,
    key: &'a mut Option<Option<String>>,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Fields<'_, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, mut seed: K) -> Result<Option<K::Value>, A::Error> {
        loop {
            seed = match self.map.next_key_seed(Name(seed))? {
                None => return Ok(None),
                Some(Named::Field(field)) => return Ok(Some(field)),
                Some(Named::Key(seed)) => seed,
            };
            if self.key.is_some() {
                return Err(A::Error::duplicate_field(KEY));
            }
            *self.key = Some(self.map.next_value()?);
        }
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        self.map.next_value_seed(seed)
    }
}

/// The name of a field. It is looked at where the deserializer reads it, which so knows what is wrong with which.
struct Name<K>(K);

enum Named<K, V> {
    /// The key's. For the next name.
    Key(K),
    Field(V),
}

impl<'de, K: DeserializeSeed<'de>> DeserializeSeed<'de> for Name<K> {
    type Value = Named<K, K::Value>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        let name = String::deserialize(from)?;
        if name == KEY {
            return Ok(Named::Key(self.0));
        }
        self.0.deserialize(name.into_deserializer()).map(Named::Field)
    }
}

/// What came of one of the requests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum BatchAnswer {
    Taken {
        id: Uuid,
        status: Status,
        /// An earlier request with the same key made it.
        replayed: bool,
    },
    Refused {
        problem: ProblemDetails,
    },
}

/// The answer to a batch: one entry for each request, in their order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BatchReply {
    /// The batch's. Executions that an earlier request made don't belong to it.
    pub id: Uuid,
    pub executions: Vec<BatchAnswer>,
}

/// How a batch stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Batch {
    pub id: Uuid,
    /// How many of its executions have each status. A status that none has is left out.
    pub counts: BTreeMap<Status, u64>,
    pub total: u64,
    /// All have ended.
    pub done: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(json: &str) -> Result<BatchItem, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn an_item_is_a_request_with_a_key() {
        let with = item(r#"{"command": ["x"], "idempotency_key": "k", "limits": {"pids": 3}}"#).unwrap();
        assert_eq!(with.idempotency_key.as_deref(), Some("k"));
        assert_eq!(with.new.limits.pids, Some(3));
        assert_eq!(item(r#"{"command": ["x"], "idempotency_key": null}"#).unwrap().idempotency_key, None);
        for (json, named) in [
            (r#"{"command": ["x"], "typo": 1}"#, "unknown field `typo`"),
            (r#"{"idempotency_key": "a", "idempotency_key": "b"}"#, "duplicate field"),
            (r#"{"idempotency_key": 1}"#, "invalid type"),
            ("[]", "expected an object"),
        ] {
            let error = item(json).unwrap_err();
            assert!(error.contains(named), "{json}: {error}");
        }
    }

    #[test]
    fn keys_have_bounds() {
        assert!(is_idempotency_key("a") && is_idempotency_key(&"~".repeat(255)));
        for bad in ["", "a b", "\u{e9}", "a\n", &"k".repeat(256)] {
            assert!(!is_idempotency_key(bad), "{bad:?}");
        }
    }
}
