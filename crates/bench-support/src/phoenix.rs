//! Phoenix Channels V2 frames that a client sends: `[join_ref, ref, topic, event, payload]`.

/// The frame that joins a topic, after the position of a cursor and with a filter if there is one. The
/// reference is both `join_ref` and `ref`.
pub fn join(reference: usize, topic: &str, since: Option<&str>, filter: Option<&str>) -> String {
    let reference = reference.to_string();
    let mut payload = serde_json::Map::new();
    for (name, value) in [("since", since), ("filter", filter)] {
        payload.extend(value.map(|value| (name.to_owned(), value.into())));
    }
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
        assert_eq!(join(1, "calls", None, None), r#"["1","1","calls","phx_join",{}]"#);
        assert_eq!(join(2, "org", Some("Ab"), None), r#"["2","2","org","phx_join",{"since":"Ab"}]"#);
        assert_eq!(join(1, "a", None, Some("n=eq.1")), r#"["1","1","a","phx_join",{"filter":"n=eq.1"}]"#);
        assert_eq!(heartbeat(4), r#"[null,"4","phoenix","heartbeat",{}]"#);
    }
}
