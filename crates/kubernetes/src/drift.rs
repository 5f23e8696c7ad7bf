//! Whether an object is still what we asked for. What we asked for is kept in an annotation of
//! it; defaults and fields that others added are no drift, other values are. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;
use serde_json::{Value, json};

use crate::objects::APPLIED;

/// Notes what is asked for in the object's own annotation, and gives the whole as it is sent.
///
/// # Errors
/// None that objects of ours could have.
pub fn with_note(object: &impl Serialize) -> serde_json::Result<Value> {
    let mut whole = serde_json::to_value(object)?;
    let note = what_counts(&whole["metadata"], &whole["spec"]).to_string();
    if let Some(metadata) = whole.get_mut("metadata").and_then(Value::as_object_mut) {
        let annotations = metadata
            .entry("annotations")
            .or_insert_with(|| Value::Object(serde_json::Map::new()));
        annotations[APPLIED] = Value::String(note);
    }
    Ok(whole)
}

/// Whether an object with `metadata` and `spec` is what its note says that we asked for.
#[must_use]
pub fn is_as_asked(metadata: &ObjectMeta, spec: &impl Serialize) -> bool {
    let note = metadata.annotations.as_ref().and_then(|all| all.get(APPLIED));
    let asked = note.and_then(|note| serde_json::from_str(note).ok());
    match (asked, serde_json::to_value(metadata), serde_json::to_value(spec)) {
        (Some(asked), Ok(metadata), Ok(spec)) => is_within(&asked, &what_counts(&metadata, &spec)),
        _ => false,
    }
}

/// Annotations count, because those of an Ingress hold the sign-in in front of it.
fn what_counts(metadata: &Value, spec: &Value) -> Value {
    json!({"annotations": metadata["annotations"], "labels": metadata["labels"], "spec": spec})
}

/// Whether everything of `asked` is in `live`.
fn is_within(asked: &Value, live: &Value) -> bool {
    match (asked, live) {
        (Value::Object(asked), Value::Object(live)) => {
            asked.iter().all(|(name, asked)| match live.get(name) {
                Some(live) => is_within(asked, live),
                None => is_empty(asked),
            })
        }
        (Value::Array(asked), Value::Array(live)) => {
            asked.len() <= live.len()
                && asked.iter().enumerate().all(|(index, asked)| {
                    // Lists of named things are merged by name, so others may add to them.
                    let name = asked.get("name").filter(|name| name.is_string());
                    match name {
                        Some(_) => live
                            .iter()
                            .find(|live| live.get("name") == name)
                            .is_some_and(|live| is_within(asked, live)),
                        None => asked_alone(asked, live, index),
                    }
                })
        }
        (asked, live) => asked == live,
    }
}

fn asked_alone(asked: &Value, live: &[Value], index: usize) -> bool {
    live.get(index).is_some_and(|live| is_within(asked, live))
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(fields) => fields.values().all(is_empty),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_server_or_others_add_is_no_drift() {
        let asked = json!({"replicas": 1, "selector": {}, "containers": [{"name": "a", "image": "x"}], "args": ["1"]});
        let live = json!({
            "replicas": 1, "progressDeadlineSeconds": 600, "args": ["1"],
            "containers": [{"name": "sidecar", "image": "y"}, {"name": "a", "image": "x", "imagePullPolicy": "Always"}],
        });
        assert!(is_within(&asked, &live));
    }

    #[test]
    fn another_value_or_a_missing_one_is() {
        let asked = json!({"replicas": 1, "containers": [{"name": "a", "image": "x"}], "args": ["1", "2"]});
        for live in [
            json!({"replicas": 2, "containers": [{"name": "a", "image": "x"}], "args": ["1", "2"]}),
            json!({"replicas": 1, "containers": [{"name": "a", "image": "z"}], "args": ["1", "2"]}),
            json!({"replicas": 1, "containers": [{"name": "b", "image": "x"}], "args": ["1", "2"]}),
            json!({"replicas": 1, "containers": [{"name": "a", "image": "x"}], "args": ["2", "1"]}),
            json!({"replicas": 1, "containers": [{"name": "a", "image": "x"}]}),
        ] {
            assert!(!is_within(&asked, &live), "{live}");
        }
    }

    #[test]
    fn an_annotation_that_somebody_took_away_is_drift_and_one_that_somebody_added_is_not() {
        let asked = json!({"metadata": {"annotations": {"auth-url": "here"}, "labels": {"of": "us"}}, "spec": {"a": 1}});
        let mut live = with_note(&asked).unwrap();
        live["metadata"]["annotations"]["theirs"] = json!("yes");
        let seen = |live: &Value| {
            let metadata = serde_json::from_value(live["metadata"].clone()).unwrap();
            is_as_asked(&metadata, &live["spec"])
        };
        assert!(seen(&live));
        let mut open = live.clone();
        open["metadata"]["annotations"]
            .as_object_mut()
            .unwrap()
            .remove("auth-url");
        assert!(!seen(&open));
        live["metadata"]["labels"]["of"] = json!("others");
        assert!(!seen(&live));
    }

    #[test]
    fn an_object_without_a_note_is_not_as_asked() {
        assert!(!is_as_asked(&ObjectMeta::default(), &json!({})));
    }
}
