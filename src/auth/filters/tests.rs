//! Claims with filters that are accepted or rejected, and what they allow.

use serde_json::json;

use super::*;
use crate::filter::Comparison;

fn claim(value: &Value) -> Result<FilterClaim, FilterClaimError> {
    let app_metadata = json!({
        "team": 7, "vip": true, "teams": ["a", 8], "none": null, "odd": "x),or=(id.is.not_null", "any": "%",
        "many": vec!["x"; LIST_VALUES_MAX / 2 + 1], "nested": {"team": 7}, "lists": [["a"]], "nulls": [null],
        "short": vec!["x"; 400], "rounded": 18_446_744_073_709_551_616.0, "exact": u64::MAX, "half": -1.5,
        "zero": "a\u{0}", "long": "x".repeat(SIGNED_VALUE_BYTES_MAX), "empty": []
    });
    let claims =
        NamedClaims { sub: "user,1", session_id: None, role: Some("agent"), app_metadata: &app_metadata };
    FilterClaim::from_claim(value, &claims)
}

fn tests(filter: &str) -> Result<Vec<Test>, FilterClaimError> {
    match claim(&json!({"calls": filter}))?.of("calls") {
        Some(SignedFilter::Rows(rows)) => {
            Ok(rows.conditions.iter().map(|condition| condition.test.clone()).collect())
        }
        other => panic!("{other:?}"),
    }
}

fn equal(column: &str, value: &str) -> Test {
    Test::Compare(column.into(), Comparison::Equal, value.into())
}

#[test]
fn claims_become_values_and_nothing_else() {
    assert_eq!(tests("a=eq.$sub&b=eq.$role"), Ok(vec![equal("a", "user,1"), equal("b", "agent")]));
    assert_eq!(
        tests("a=eq.$app_metadata.team&b=eq.$app_metadata.vip"),
        Ok(vec![equal("a", "7"), equal("b", "true")])
    );
    let list = Test::In("a".into(), vec!["x".into(), "a".into(), "8".into()]);
    assert_eq!(tests("a=in.(x,$app_metadata.teams)"), Ok(vec![list]));
    assert_eq!(tests("a=in.($app_metadata.empty)"), Ok(vec![Test::In("a".into(), vec![])]));
    assert_eq!(
        tests("a=eq.$app_metadata.exact&b=eq.$app_metadata.half"),
        Ok(vec![equal("a", "18446744073709551615"), equal("b", "-1.5")])
    );
    // A claim with the syntax of a filter is still one value.
    assert_eq!(tests("a=eq.$app_metadata.odd"), Ok(vec![equal("a", "x),or=(id.is.not_null")]));
    assert_eq!(tests("a=eq.$$sub&b=eq.a$sub"), Ok(vec![equal("a", "$sub"), equal("b", "a$sub")]));
    assert_eq!(tests("or=(a.eq.$sub,b.eq.\"$role\")").map(|tests| tests.len()), Ok(1));
    assert_eq!(tests("a=like.$$x*").map(|tests| tests.len()), Ok(1));
}

#[test]
fn an_invalid_filter_is_rejected() {
    use FilterClaimError::{Empty, Pattern, Syntax, TooLong, TooManyValues, Value as Claim};
    for (filter, error) in [
        ("", Empty),
        ("&", Empty),
        ("a", Syntax),
        ("a=eq", Syntax),
        ("a=equals.1", Syntax),
        ("**", Syntax),
        ("* ", Syntax),
        ("or=(a.eq.1", Syntax),
        ("or=()", Syntax),
        ("select=a", Syntax),
        ("order=a", Syntax),
        ("limit=1", Syntax),
        ("after=W10", Syntax),
        ("a=eq.%00", Syntax),
        ("a=eq.%ff", Syntax),
        ("a=eq.$", Claim),
        ("a=eq.$Sub", Claim),
        ("a=eq.$sub ", Claim),
        ("a=eq.$session_id", Claim),
        ("a=eq.$user_metadata.team", Claim),
        ("a=eq.$app_metadata", Claim),
        ("a=eq.$app_metadata.", Claim),
        ("a=eq.$app_metadata.none", Claim),
        ("a=eq.$app_metadata.missing", Claim),
        ("a=eq.$app_metadata.nested", Claim),
        ("a=eq.$app_metadata.nested.team", Claim),
        ("a=eq.$app_metadata.zero", Claim),
        ("a=eq.$app_metadata.teams", Claim),
        ("a=in.($app_metadata.lists)", Claim),
        ("a=in.($app_metadata.nulls)", Claim),
        ("or=(a.eq.$nobody,b.eq.1)", Claim),
        ("a=in.($app_metadata.many,$app_metadata.many)", TooManyValues),
        ("and=(a.in.($app_metadata.many),b.in.($app_metadata.many))", TooManyValues),
        ("a=eq.$app_metadata.long", TooLong),
        ("a=eq.$app_metadata.rounded", Claim),
        ("a=like.$sub", Pattern),
        ("a=ilike.$app_metadata.any", Pattern),
        ("or=(a.not.like.$app_metadata.any)", Pattern),
    ] {
        assert_eq!(claim(&json!({"calls": filter})), Err(error), "{filter}");
    }
}

#[test]
fn an_invalid_claim_is_rejected() {
    let long = format!("a=eq.{}", "x".repeat(SIGNED_FILTER_BYTES_MAX));
    let many: serde_json::Map<String, Value> =
        (0..=SIGNED_FILTERS_MAX).map(|n| (format!("topic_{n}"), json!("*"))).collect();
    let short = "a=in.($app_metadata.short)";
    assert!(claim(&json!({"a": short, "b": short})).is_ok());
    for invalid in [
        // Each of the 1,200 values counts more than its character.
        json!({"a": short, "b": short, "c": short}),
        json!(null),
        json!("*"),
        json!(["calls"]),
        json!({"calls": null}),
        json!({"calls": true}),
        json!({"calls": {}}),
        json!({"calls": ["a=eq.1"]}),
        json!({"Calls": "*"}),
        json!({"org": "*"}),
        json!({"call:*": "*"}),
        json!({"*": "*"}),
        json!({"": "*"}),
        json!({"call:6f9619ff-8b86-4d01-b42d-00cf4fc964ff": "a=eq.1"}),
        json!({"calls": "*", "recordings": "a"}),
        json!({"calls": long}),
        Value::Object(many),
    ] {
        assert!(claim(&invalid).is_err(), "{invalid}");
    }
}

#[test]
fn a_claim_allows_only_the_topics_that_it_names() {
    let topic = |name: &str| Topic::parse(name).expect("a topic");
    let none = FilterClaim::default();
    assert!(!none.is_present() && none.of("calls").is_none() && none.json().is_none());
    assert_eq!(none.rule(&topic("calls")), TopicRule::Whole);
    let empty = claim(&json!({})).expect("a claim");
    assert!(empty.is_present() && empty.of("calls").is_none());
    assert_eq!(empty.rule(&topic("calls")), TopicRule::Nothing);
    let some = claim(&json!({"calls": "*", "recordings": "a=eq.$sub"})).expect("a claim");
    assert_eq!(some.rule(&topic("calls")), TopicRule::Whole);
    assert!(matches!(some.rule(&topic("recordings")), TopicRule::Rows(_)));
    assert_eq!(some.rule(&topic("call_logs")), TopicRule::Nothing);
    for name in ["org", "call:1"] {
        assert_eq!(some.rule(&topic(name)), TopicRule::Aggregate(some.clone()));
    }
    // The audit trail shows no values of claims.
    assert_eq!(some.json(), Some(r#"{"calls":"*","recordings":"a=eq.$sub"}"#));
}

#[test]
fn rules_are_compared_after_the_replacement() {
    let topic = |name: &str| Topic::parse(name).expect("a topic");
    let a = claim(&json!({"calls": "a=eq.$app_metadata.team"})).expect("a claim");
    let b = claim(&json!({"calls": "a=eq.7", "recordings": "*"})).expect("a claim");
    let same = claim(&json!({"calls": "a=eq.%37"})).expect("a claim");
    assert!(a.has_same_rule(&b, &topic("calls")) && same.has_same_rule(&a, &topic("org")));
    assert!(!a.has_same_rule(&b, &topic("org")) && !a.has_same_rule(&b, &topic("recordings")));
    assert!(!a.has_same_rule(&FilterClaim::default(), &topic("calls")));
}
