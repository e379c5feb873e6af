//! JSON bodies, read as the API means them: what is an object in its description
//! is an object on the wire. Serde alone takes an array for one as well, by the
//! order of its fields.

use std::fmt::Display;

use axum::http::StatusCode;
use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{
    DeserializeOwned, Deserializer, Error as _, IntoDeserializer, Unexpected, Visitor,
};
use serde::forward_to_deserialize_any;
use serde_json::{Error, Value};

use super::error::{ApiError, ApiResult};

/// Reads a body. The message of an error names the field.
pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> ApiResult<T> {
    let value: Value = serde_json::from_slice(bytes)
        .map_err(|error| ApiError::bad_request(format!("the body is not JSON: {error}")))?;
    serde_path_to_error::deserialize(Strict(value)).map_err(|error| {
        let path = error.path().to_string();
        refused(&path, error.inner())
    })
}

fn refused(path: &str, error: &dyn Display) -> ApiError {
    let place = match path {
        "." => "the body",
        path => path,
    };
    ApiError::new(StatusCode::BAD_REQUEST, format!("{place}: {error}"))
}

/// A value of which objects alone become structs.
struct Strict(Value);

impl<'de> Deserializer<'de> for Strict {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Array(items) => {
                let mut items = SeqDeserializer::new(items.into_iter().map(Strict));
                let value = visitor.visit_seq(&mut items)?;
                items.end()?;
                Ok(value)
            }
            Value::Object(fields) => {
                let fields = fields
                    .into_iter()
                    .map(|(name, value)| (name, Strict(value)));
                let mut fields = MapDeserializer::new(fields);
                let value = visitor.visit_map(&mut fields)?;
                fields.end()?;
                Ok(value)
            }
            value => value.deserialize_any(visitor),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let found = match &self.0 {
            Value::Object(_) => return self.deserialize_any(visitor),
            Value::Null => Unexpected::Unit,
            Value::Bool(value) => Unexpected::Bool(*value),
            Value::Number(_) => Unexpected::Other("number"),
            Value::String(text) => Unexpected::Str(text),
            Value::Array(_) => Unexpected::Seq,
        };
        Err(Error::invalid_type(found, &"an object"))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.0.deserialize_enum(name, variants, visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
        unit unit_struct seq tuple tuple_struct map identifier ignored_any
    }
}

impl<'de> IntoDeserializer<'de, Error> for Strict {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

#[cfg(test)]
mod tests {
    use neon_api::types::{BranchCreateRequest, BranchUpdateRequest, Change};

    use super::*;

    #[test]
    fn an_object_is_read() {
        let body = br#"{"branch":{"name":"dev","expires_at":null},"annotation_value":{"a":"b"},
            "endpoints":[{"type":"read_write","autoscaling_limit_min_cu":1}],"new":[{}]}"#;
        let request: BranchCreateRequest = parse(body).unwrap();
        assert_eq!(request.branch.unwrap().name.as_deref(), Some("dev"));
        assert_eq!(request.endpoints[0].autoscaling_limit_min_cu, Some(1.0));
        let request: BranchUpdateRequest = parse(br#"{"branch":{"expires_at":null}}"#).unwrap();
        assert_eq!(request.branch.expires_at, Change::Clear);
    }

    #[test]
    fn an_array_is_no_object() {
        for (body, place) in [
            ("[]", "the body"),
            ("null", "the body"),
            (r#"{"branch":["br-a","dev"]}"#, "branch"),
            (r#"{"endpoints":[["read_write"]]}"#, "endpoints[0]"),
            (r#"{"branch":{"name":7}}"#, "branch.name"),
            (r#"{"annotation_value":{"a":1}}"#, "annotation_value.a"),
        ] {
            let error = parse::<BranchCreateRequest>(body.as_bytes()).unwrap_err();
            let start = format!("{place}: ");
            assert!(error.message().starts_with(&start), "{body}: {error:?}");
        }
    }
}
