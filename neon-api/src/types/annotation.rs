//! Annotations: key-value notes on a branch.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The notes themselves.
pub type AnnotationValueData = BTreeMap<String, String>;

/// The notes on one object, and when they were made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnnotationData {
    /// What the notes are on.
    pub object: AnnotationObjectData,
    /// The notes.
    pub value: AnnotationValueData,
    /// When they were first made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<Timestamp>,
    /// When they last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<Timestamp>,
}

/// The object that notes are on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnnotationObjectData {
    /// The kind of object: `console/branch`.
    #[serde(rename = "type")]
    pub object_type: String,
    /// Its identifier.
    pub id: String,
}
