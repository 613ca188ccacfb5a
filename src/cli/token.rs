//! `warden token`: signs a token for development, or for a back end.

use std::time::Duration;

use clap::Args;
use serde_json::Value;
use uuid::Uuid;
use warden_devkit::token::{TokenClaims, sign};

use crate::auth::{FilterClaim, SERVICE_ROLE, is_topic};
use crate::config::SigningArgs;

#[derive(Args)]
#[command(after_help = "\
Prints a token that is signed with HS256 and WARDEN_JWT_SECRET. In production, your issuer (for example Supabase \
Auth) signs the users' tokens, with the organisation in app_metadata.org_id.

With --backend the token is signed with WARDEN_BACKEND_SECRET. It may publish and revoke within its organisation, and \
opens no socket:

  warden token --backend --org <uuid> --sub billing --ttl 30d")]
pub(super) struct TokenArgs {
    /// Organisation, for the claim app_metadata.org_id
    #[arg(long, value_name = "UUID")]
    org: Uuid,
    /// User, for the claim sub [default: a random UUID]
    #[arg(long, value_name = "ID")]
    sub: Option<String>,
    /// Role, for the claim role: authenticated for users, service_role for back ends
    #[arg(long, default_value = "authenticated", conflicts_with = "backend")]
    role: String,
    /// Validity, such as 90s, 15m, 1h or 7d
    #[arg(long, default_value = "1h", value_parser = parse_duration)]
    ttl: Duration,
    /// Topics that the token may join, for the claim app_metadata.warden_topics, such as calls,call:*
    /// [default: no such claim]
    #[arg(long, value_name = "TOPIC", value_delimiter = ',', value_parser = topic)]
    topics: Option<Vec<String>>,
    /// Rows that the token may receive and read, for the claim app_metadata.warden_filters: a JSON object
    /// with a filter, or "*", for each topic, such as '{"calls": "agent_id=eq.$sub"}'
    /// [default: no such claim]
    #[arg(long, value_name = "JSON", value_parser = json)]
    filters: Option<Value>,
    #[command(flatten)]
    jwt: SigningArgs,
}

pub(super) fn run(args: &TokenArgs) -> anyhow::Result<()> {
    let signing = args.jwt.signing()?;
    let sub = args.sub.clone().unwrap_or_else(|| Uuid::new_v4().to_string());
    let role = if signing.of_backends { SERVICE_ROLE } else { &args.role };
    if let Some(filters) = &args.filters {
        FilterClaim::check(filters, &sub, role).map_err(|error| anyhow::anyhow!("--filters {error}"))?;
    }
    let claims = TokenClaims {
        org: args.org,
        sub: &sub,
        role,
        ttl: args.ttl,
        audience: signing.audience,
        issuer: signing.issuer,
        topics: args.topics.as_deref(),
        filters: args.filters.as_ref(),
    };
    println!("{}", sign(&claims, signing.secret)?);
    Ok(())
}

fn json(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|error| format!("expected a JSON object: {error}"))
}

fn topic(text: &str) -> Result<String, String> {
    if text == "*" || is_topic(text) {
        Ok(text.to_owned())
    } else {
        Err("expected a topic such as calls or call:<uuid>, call:* for every call, or * for all topics"
            .to_owned())
    }
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    const EXPECTED: &str = "expected a duration such as 90s, 15m, 1h or 7d";
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let seconds = match unit {
        "s" | "" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(EXPECTED.to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| EXPECTED.to_owned())?;
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(|| "the duration is too long".to_owned())
}
