//! Phoenix Channels V2 frames that a client sends: `[join_ref, ref, topic, event, payload]`.

/// The frame that joins a topic, after the position of a cursor if there is one. The reference is both
/// `join_ref` and `ref`.
pub fn join(reference: usize, topic: &str, since: Option<&str>) -> String {
    let reference = reference.to_string();
    let payload = since.map_or_else(|| serde_json::json!({}), |since| serde_json::json!({"since": since}));
    serde_json::json!([reference, reference, topic, "phx_join", payload]).to_string()
}

/// The frame that keeps a gateway from closing an idle connection.
pub fn heartbeat(reference: usize) -> String {
    serde_json::json!([null, reference.to_string(), "phoenix", "heartbeat", {}]).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_have_the_phoenix_form() {
        assert_eq!(join(1, "calls", None), r#"["1","1","calls","phx_join",{}]"#);
        assert_eq!(join(2, "org", Some("Ab")), r#"["2","2","org","phx_join",{"since":"Ab"}]"#);
        assert_eq!(heartbeat(4), r#"[null,"4","phoenix","heartbeat",{}]"#);
    }
}
