//! Actors of the checks: the roles of requests, with claims of every shape.

use serde_json::{Value, json};
use uuid::Uuid;

use super::{Tenant, Tenants};

/// Access that an actor must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Full access within its own organisation, and none beyond.
    Own,
    /// No access.
    Nothing,
    /// No visible rows, even if the role is granted all privileges on the table.
    NothingThoughGranted,
    /// No access to tables of Warden, which have no policy for the role. On a table where the grants decide,
    /// full access within the own organisation, once it is granted.
    ByGrants,
    /// As [`Self::ByGrants`], and on the tables of the recordings' worker full access within the own
    /// organisation, once it is granted.
    Worker,
}

/// A role with claims.
#[derive(Clone, Debug)]
pub struct Actor {
    pub name: String,
    pub role: String,
    /// Raw value of `request.jwt.claims`, which may be invalid JSON.
    pub claims: String,
    pub reach: Reach,
}

impl Actor {
    fn new(name: &str, role: &str, claims: &dyn std::fmt::Display, reach: Reach) -> Self {
        Self { name: name.to_owned(), role: role.to_owned(), claims: claims.to_string(), reach }
    }

    /// Whether the claims are empty or valid JSON. Below PostgreSQL 16 other values may raise an error.
    pub fn has_json(&self) -> bool {
        self.claims.is_empty() || serde_json::from_str::<Value>(&self.claims).is_ok()
    }
}

/// Claims of a verified token of the tenant's user.
pub fn claims_of(tenant: Tenant) -> Value {
    json!({
        "sub": tenant.user, "role": "authenticated", "app_metadata": {"provider": "email", "org_id": tenant.org},
        "user_metadata": {"org_id": Uuid::nil()}
    })
}

/// The tenant's own user, and one actor of each kind that must have no access.
pub fn few(tenants: Tenants, owner: &str) -> Vec<Actor> {
    let own = tenants.own;
    let elsewhere = json!({"role": "authenticated", "org_id": own.org, "user_id": own.user,
        "user_metadata": {"org_id": own.org, "sub": own.user}});
    vec![
        Actor::new("the own organisation", "authenticated", &claims_of(own), Reach::Own),
        Actor::new("no claims", "authenticated", &"", Reach::Nothing),
        Actor::new("org only in user_metadata", "authenticated", &elsewhere, Reach::Nothing),
        Actor::new("anon without claims", "anon", &"", Reach::NothingThoughGranted),
        Actor::new("the owner without claims", owner, &"", Reach::Nothing),
        Actor::new("the worker in the own organisation", "warden_worker", &claims_of(own), Reach::Worker),
        Actor::new("the worker without claims", "warden_worker", &"", Reach::NothingThoughGranted),
    ]
}

/// Roles without a policy, with the claims of an organisation.
pub fn without_policy(tenants: Tenants, owner: &str) -> Vec<Actor> {
    let claims = claims_of(tenants.own);
    vec![
        Actor::new("anon with an organisation's claims", "anon", &claims, Reach::ByGrants),
        Actor::new("the owner with an organisation's claims", owner, &claims, Reach::ByGrants),
    ]
}

/// All actors of [`few`], and one actor for every shape of malformed claims.
pub fn everybody(tenants: Tenants, owner: &str) -> Vec<Actor> {
    let own = tenants.own;
    let mut actors = few(tenants, owner);
    let upper = json!({"sub": own.user.to_string().to_uppercase(),
        "app_metadata": {"org_id": own.org.to_string().to_uppercase()}});
    actors.push(Actor::new("upper case", "authenticated", &upper, Reach::Own));
    let (org, user) = (own.org.to_string(), own.user.to_string());
    for (shape, org, user) in
        malformed(&org).into_iter().zip(malformed(&user)).map(|((s, o), (_, u))| (s, o, u))
    {
        let claims = json!({"sub": user, "app_metadata": {"org_id": org}, "org_id": own.org, "user_id": own.user,
            "user_metadata": {"org_id": own.org, "sub": own.user}});
        actors.push(Actor::new(shape, "authenticated", &claims, Reach::Nothing));
    }
    let text = own.org.to_string();
    for claims in [
        json!({}),
        json!({"app_metadata": {}}),
        json!({"app_metadata": text}),
        json!({"app_metadata": [{"org_id": text}]}),
        json!({"app_metadata": null}),
        json!({"app_metadata": {"Org_id": text}}),
        json!([{"app_metadata": {"org_id": text}}]),
        json!(text),
        json!(null),
        json!(7),
    ] {
        actors.push(Actor::new(&claims.to_string(), "authenticated", &claims, Reach::Nothing));
    }
    for claims in ["{", "undefined", " ", &text, &format!("{{'app_metadata': {{'org_id': '{text}'}}}}")] {
        actors.push(Actor::new(&format!("no JSON: {claims}"), "authenticated", &claims, Reach::Nothing));
    }
    actors
}

/// Values that resemble an id but are not valid.
fn malformed(id: &str) -> Vec<(&'static str, Value)> {
    vec![
        ("empty", json!("")),
        ("the word null", json!("null")),
        ("null", Value::Null),
        ("a number", json!(7)),
        ("true", json!(true)),
        ("an array", json!([id])),
        ("an object", json!({"org_id": id})),
        ("braces", json!(format!("{{{id}}}"))),
        ("no hyphens", json!(id.replace('-', ""))),
        ("urn", json!(format!("urn:uuid:{id}"))),
        ("a space before", json!(format!(" {id}"))),
        ("a space behind", json!(format!("{id} "))),
        ("a newline behind", json!(format!("{id}\n"))),
        ("37 characters", json!(format!("{id}0"))),
        ("35 characters", json!(id[..35])),
        ("a quote", json!(format!("{id}'"))),
        ("or true", json!("' or true --")),
        ("not a digit", json!(format!("g{}", &id[1..]))),
        ("an unknown id", json!(Uuid::new_v4())),
        ("nil", json!(Uuid::nil())),
    ]
}
