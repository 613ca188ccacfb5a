//! Schemas of JSON that the gateway reads or writes as text, so that no type describes it.

use serde_json::{Value, json};

use crate::reading::ROWS_MAX;

/// These schemas by name.
pub(in super::super) fn schemas() -> Value {
    json!({
        "Event": event(),
        "Events": {
            "description": "One event, or a list of events",
            "oneOf": [
                {"$ref": "#/components/schemas/Event"},
                {"type": "array", "items": {"$ref": "#/components/schemas/Event"}, "minItems": 1, "maxItems": 1000},
            ],
        },
        "CloudEvent": cloud_event(),
        "CloudEvents": {
            "type": "array",
            "items": {"$ref": "#/components/schemas/CloudEvent"},
            "minItems": 1,
            "maxItems": 1000,
        },
        "Row": {
            "description": "A row with its visible columns, as the `data` of events contains it",
            "type": "object",
        },
        "Page": page(),
        "Document": {"description": "An OpenAPI document", "type": "object"},
    })
}

fn event() -> Value {
    json!({
        "description": "An event in the gateway's own form",
        "type": "object",
        "required": ["topic", "event"],
        "properties": {
            "topic": {
                "description": "A declared topic, `org`, or the topic of an entity such as `invoice:17`",
                "type": "string",
                "examples": ["invoices"],
            },
            "event": {
                "description": "Name of the event. Names that begin with `warden.`, `org.` or `phx_` are reserved",
                "type": "string",
                "pattern": "^[A-Za-z][A-Za-z0-9_.:-]{0,126}$",
                "examples": ["invoice.paid"],
            },
            "data": {"description": "Any JSON of at most 65,536 bytes", "default": {}},
            "traceparent": {"description": "Trace context of the event. One that is not valid is ignored"},
        },
        "additionalProperties": false,
    })
}

fn cloud_event() -> Value {
    let text = |description: &str| json!({"description": description, "type": "string", "minLength": 1});
    json!({
        "description": "A CloudEvent 1.0 with data in JSON. Other attributes are extensions",
        "type": "object",
        "required": ["specversion", "id", "source", "type", "subject"],
        "properties": {
            "specversion": {"type": "string", "const": "1.0"},
            "id": text("With `source`, the idempotency key of the event"),
            "source": text("Context in which the event happened"),
            "type": text("Name of the event"),
            "subject": text("Topic of the event"),
            "time": {"type": ["string", "null"], "format": "date-time"},
            "datacontenttype": {"description": "A JSON media type", "type": ["string", "null"]},
            "dataschema": {"type": ["string", "null"], "minLength": 1},
            "data": {"description": "Any JSON of at most 65,536 bytes"},
        },
        "propertyNames": {"pattern": "^[a-z0-9]+$"},
        "additionalProperties": {"type": ["string", "boolean", "number", "null"]},
    })
}

fn page() -> Value {
    json!({
        "description": "A page of rows",
        "type": "object",
        "required": ["rows", "cursor", "next"],
        "properties": {
            "rows": {"type": "array", "items": {"$ref": "#/components/schemas/Row"}, "maxItems": ROWS_MAX},
            "cursor": {
                "description": "Position in the event log at which the page was read: `since` of a join",
                "type": "string",
            },
            "next": {
                "description": "Path and query of the next page. Null on the last page",
                "type": ["string", "null"],
            },
            "total": {
                "description": "With `Prefer: count=exact`: number of all rows, or null if there are too many",
                "type": ["integer", "null"],
                "minimum": 0,
            },
            "truncated": {
                "description": "Positions in `rows` of rows that are too large. Of these the page contains the key alone",
                "type": "array",
                "items": {"type": "integer", "minimum": 0},
            },
        },
        "additionalProperties": false,
    })
}
