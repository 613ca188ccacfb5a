//! Demo organisations, their users, and tokens of these users.

use std::time::Duration;

use sqlx::postgres::PgPool;
use uuid::Uuid;
use warden_devkit::cluster::Cluster;
use warden_devkit::token::{TokenClaims, sign};

use crate::config::DEFAULT_AUDIENCE;

/// Users of each demo organisation.
pub(super) const USERS_PER_ORG: usize = 2;

/// Validity of demo tokens.
const TOKEN_TTL: Duration = Duration::from_hours(24);

/// Demo organisations. Their ids are fixed, so that they stay valid in an application's configuration.
const ORGS: &[(Uuid, &str)] = &[
    (Uuid::from_u128(0xacde_0000_0000_4000_8000_0000_0000_0001), "Acme Dental"),
    (Uuid::from_u128(0xb1e0_0000_0000_4000_8000_0000_0000_0002), "Blue Harbor Realty"),
];

/// A demo organisation, with a token.
#[derive(Clone, Debug)]
pub struct DemoOrg {
    /// Id.
    pub id: Uuid,
    /// Name.
    pub name: String,
    /// Token of one of its users.
    pub token: String,
}

/// Creates missing demo organisations and users, and signs one token per organisation.
pub(super) async fn create_orgs(pool: &PgPool, jwt_secret: &str) -> anyhow::Result<Vec<DemoOrg>> {
    let mut orgs = Vec::new();
    for (id, name) in ORGS {
        sqlx::query!(
            "insert into organizations (id, name) values ($1, $2) on conflict (id) do nothing",
            id,
            name
        )
        .execute(pool)
        .await?;
        let mut users = sqlx::query_scalar!(
            "select user_id from organization_members where org_id = $1 order by created_at, user_id",
            id
        )
        .fetch_all(pool)
        .await?;
        while users.len() < USERS_PER_ORG {
            let user = Uuid::new_v4();
            sqlx::query!("insert into organization_members (org_id, user_id) values ($1, $2)", id, user)
                .execute(pool)
                .await?;
            users.push(user);
        }
        let claims = TokenClaims {
            org: *id,
            sub: &users[0].to_string(),
            role: "authenticated",
            ttl: TOKEN_TTL,
            audience: DEFAULT_AUDIENCE,
            issuer: None,
            topics: None,
            filters: None,
        };
        orgs.push(DemoOrg { id: *id, name: (*name).to_owned(), token: sign(&claims, jwt_secret)? });
    }
    Ok(orgs)
}

/// Reads or creates the secret of a cluster, so that tokens stay valid after a restart.
pub(super) fn jwt_secret(cluster: &Cluster) -> anyhow::Result<String> {
    let generate = || format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
    Ok(cluster.private_text("jwt_secret", generate)?.trim().to_owned())
}
