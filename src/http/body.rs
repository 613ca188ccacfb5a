//! Reads of request bodies that several routes share: limits, media types and JSON objects.
//!
//! This module must not know what a route does, or who may use it.

use std::error::Error as _;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, header};
use bytes::Bytes;
use http_body_util::LengthLimitError;
use serde::de::DeserializeOwned;
use serde::{Deserialize as _, Deserializer};

use super::error::Rejection;

/// Reads a body of at most this many bytes, within this time.
pub(super) async fn read(body: Body, bytes_max: usize, timeout: Duration) -> Result<Bytes, Rejection> {
    let read = tokio::time::timeout(timeout, to_bytes(body, bytes_max));
    let read = read.await.map_err(|_| Rejection::BodyTimeout)?;
    read.map_err(|error| match error.source() {
        Some(source) if source.is::<LengthLimitError>() => Rejection::BodyTooLong(bytes_max),
        _ => Rejection::BodyIncomplete,
    })
}

/// The media type of a body in lower case, and its parameters. None if there is none, or several.
pub(super) fn media_type(headers: &HeaderMap) -> Option<(String, String)> {
    let mut values = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let value = value.to_str().ok()?.to_ascii_lowercase();
    let (name, parameters) = value.split_once(';').unwrap_or((&value, ""));
    Some((name.trim().to_owned(), parameters.trim().to_owned()))
}

/// Checks that the media type of a body is `application/json`.
pub(super) fn check_json(headers: &HeaderMap) -> Result<(), Rejection> {
    match media_type(headers) {
        Some((name, _)) if name == "application/json" => Ok(()),
        _ => Err(Rejection::MediaType),
    }
}

/// Parses a JSON object. None if the body is anything else.
pub(super) fn parse_object<T: DeserializeOwned>(body: &[u8]) -> Option<T> {
    // serde also reads a struct from an array, field by field.
    let is_object = body.trim_ascii_start().starts_with(b"{");
    if is_object { serde_json::from_slice(body).ok() } else { None }
}

/// Deserialises an optional field that must be a string if it is present: `null` is rejected.
pub(super) fn string<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    String::deserialize(deserializer).map(Some)
}
