//! Drift detection: compares a live object with the values that we applied, which are stored in an annotation of the
//! object itself. Defaults and fields that others added are no drift; different values are. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;
use serde_json::{Value, json};

use crate::objects::APPLIED;

/// The object as it is sent, with the applied values in its annotation [`APPLIED`].
///
/// # Errors
/// The object cannot be written as JSON, which all of ours can.
pub fn with_applied_annotation(object: &impl Serialize) -> serde_json::Result<Value> {
    let mut whole = serde_json::to_value(object)?;
    let applied = compared_fields(&whole["metadata"], &whole["spec"]).to_string();
    if let Some(metadata) = whole.get_mut("metadata").and_then(Value::as_object_mut) {
        let annotations = metadata
            .entry("annotations")
            .or_insert_with(|| Value::Object(serde_json::Map::new()));
        annotations[APPLIED] = Value::String(applied);
    }
    Ok(whole)
}

/// Whether an object with `metadata` and `spec` has all the values in its annotation [`APPLIED`].
#[must_use]
pub fn matches_applied(metadata: &ObjectMeta, spec: &impl Serialize) -> bool {
    let annotation = metadata.annotations.as_ref().and_then(|all| all.get(APPLIED));
    let applied = annotation.and_then(|text| serde_json::from_str(text).ok());
    match (
        applied,
        serde_json::to_value(metadata),
        serde_json::to_value(spec),
    ) {
        (Some(applied), Ok(metadata), Ok(spec)) => is_subset(&applied, &compared_fields(&metadata, &spec)),
        _ => false,
    }
}

/// Annotations are compared too, because those of an Ingress hold the sign-in in front of it.
fn compared_fields(metadata: &Value, spec: &Value) -> Value {
    json!({"annotations": metadata["annotations"], "labels": metadata["labels"], "spec": spec})
}

/// Whether everything in `applied` is in `live`.
fn is_subset(applied: &Value, live: &Value) -> bool {
    match (applied, live) {
        (Value::Object(applied), Value::Object(live)) => {
            applied.iter().all(|(name, applied)| match live.get(name) {
                Some(live) => is_subset(applied, live),
                None => is_empty(applied),
            })
        }
        (Value::Array(applied), Value::Array(live)) => {
            applied.len() <= live.len()
                && applied.iter().enumerate().all(|(index, applied)| {
                    // Lists of items with a name are merged by name, so others may add to them.
                    let name = applied.get("name").filter(|name| name.is_string());
                    match name {
                        Some(_) => live
                            .iter()
                            .find(|live| live.get("name") == name)
                            .is_some_and(|live| is_subset(applied, live)),
                        None => live.get(index).is_some_and(|live| is_subset(applied, live)),
                    }
                })
        }
        (applied, live) => applied == live,
    }
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
        let applied = json!({"replicas": 1, "selector": {}, "containers": [{"name": "a", "image": "x"}], "args": ["1"]});
        let live = json!({
            "replicas": 1, "progressDeadlineSeconds": 600, "args": ["1"],
            "containers": [{"name": "sidecar", "image": "y"}, {"name": "a", "image": "x", "imagePullPolicy": "Always"}],
        });
        assert!(is_subset(&applied, &live));
    }

    #[test]
    fn a_different_or_missing_value_is_drift() {
        let applied = json!({"replicas": 1, "containers": [{"name": "a", "image": "x"}], "args": ["1", "2"]});
        for live in [
            json!({"replicas": 2, "containers": [{"name": "a", "image": "x"}], "args": ["1", "2"]}),
            json!({"replicas": 1, "containers": [{"name": "a", "image": "z"}], "args": ["1", "2"]}),
            json!({"replicas": 1, "containers": [{"name": "b", "image": "x"}], "args": ["1", "2"]}),
            json!({"replicas": 1, "containers": [{"name": "a", "image": "x"}], "args": ["2", "1"]}),
            json!({"replicas": 1, "containers": [{"name": "a", "image": "x"}]}),
        ] {
            assert!(!is_subset(&applied, &live), "{live}");
        }
    }

    #[test]
    fn a_removed_annotation_is_drift_and_an_added_one_is_not() {
        let applied = json!({"metadata": {"annotations": {"auth-url": "here"}, "labels": {"of": "us"}}, "spec": {"a": 1}});
        let mut live = with_applied_annotation(&applied).unwrap();
        live["metadata"]["annotations"]["theirs"] = json!("yes");
        let matches = |live: &Value| {
            let metadata = serde_json::from_value(live["metadata"].clone()).unwrap();
            matches_applied(&metadata, &live["spec"])
        };
        assert!(matches(&live));
        let mut open = live.clone();
        open["metadata"]["annotations"]
            .as_object_mut()
            .unwrap()
            .remove("auth-url");
        assert!(!matches(&open));
        live["metadata"]["labels"]["of"] = json!("others");
        assert!(!matches(&live));
    }

    #[test]
    fn an_object_without_the_annotation_does_not_match() {
        assert!(!matches_applied(&ObjectMeta::default(), &json!({})));
    }
}
