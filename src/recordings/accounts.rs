//! Accounts at the providers of recordings: whose they are, and the secrets that open their recordings and
//! verify their webhooks.
//!
//! They come from a file. An account belongs to one organisation, and no request can name another one.

use std::fmt;
use std::path::Path;

use anyhow::Context as _;
use serde::Deserialize;

use super::failure::Failure;
use super::source::Credentials;
use crate::org::OrgId;

/// Shortest secret, in bytes. Twilio's tokens have 32.
const SECRET_BYTES_MIN: usize = 16;

/// A provider of recordings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    /// Twilio.
    Twilio,
    /// Vapi.
    Vapi,
}

impl Provider {
    /// The name in the queue and in the path of the webhook.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Twilio => "twilio",
            Self::Vapi => "vapi",
        }
    }
}

/// An account of an organisation at a provider.
#[derive(Clone)]
pub struct Account {
    /// The provider.
    pub provider: Provider,
    /// The account's id at the provider.
    pub id: String,
    /// The organisation to which its recordings belong.
    pub org: OrgId,
    /// Verifies webhooks; at Twilio also the password of the recordings.
    pub secret: String,
    /// Opens recordings.
    credentials: Option<Credentials>,
}

/// Shows no secret.
impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account")
            .field("provider", &self.provider)
            .field("id", &self.id)
            .field("org", &self.org)
            .finish_non_exhaustive()
    }
}

/// All accounts.
#[derive(Clone, Debug, Default)]
pub struct Accounts(Vec<Account>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    account: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    provider: Provider,
    id: String,
    organization: String,
    secret: Option<String>,
    secret_file: Option<String>,
    user: Option<String>,
    password: Option<String>,
    password_file: Option<String>,
}

impl Accounts {
    /// Reads the file of accounts.
    ///
    /// # Errors
    /// If it cannot be read, or an account is not valid. No message contains a secret.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the accounts file {shown}"))?;
        Self::parse(&text).with_context(|| format!("the accounts file {shown}"))
    }

    /// Parses the text of a file of accounts.
    ///
    /// # Errors
    /// If an account is not valid. No message contains a secret.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        // The parser's own message would show the line, which may contain a secret.
        let file: File = toml::from_str(text).map_err(|error| {
            let line =
                error.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
            anyhow::anyhow!(
                "line {line}: not an account: provider, id, organization and secret are needed, each a text"
            )
        })?;
        let mut accounts: Vec<Account> = Vec::new();
        for (n, entry) in file.account.into_iter().enumerate() {
            let account = entry.into_account().with_context(|| format!("account {}", n + 1))?;
            let is_known = accounts.iter().any(|a| (a.provider, &a.id) == (account.provider, &account.id));
            anyhow::ensure!(!is_known, "account {}: {} is listed twice", n + 1, account.id);
            // A webhook's organisation is that of the account whose secret verifies it.
            let is_shared =
                accounts.iter().any(|a| a.provider == account.provider && a.secret == account.secret);
            anyhow::ensure!(!is_shared, "account {}: it has the secret of another account", n + 1);
            accounts.push(account);
        }
        Ok(Self(accounts))
    }

    /// The accounts at a provider.
    pub fn of(&self, provider: Provider) -> impl Iterator<Item = &Account> {
        self.0.iter().filter(move |account| account.provider == provider)
    }

    /// The credentials for a source of an organisation. None if the row names no account.
    ///
    /// # Errors
    /// If the account is not known, or belongs to another organisation.
    pub(super) fn credentials(
        &self,
        org: OrgId,
        provider: Option<&str>,
        account: Option<&str>,
    ) -> Result<Option<&Credentials>, Failure> {
        let Some(id) = account else { return Ok(None) };
        let found = self.0.iter().find(|a| Some(a.provider.name()) == provider && a.id == id && a.org == org);
        match found {
            Some(account) => Ok(account.credentials.as_ref()),
            None => Err(Failure::permanent(format!("account {id} is not one of this organisation"))),
        }
    }
}

impl Entry {
    fn into_account(self) -> anyhow::Result<Account> {
        let org = OrgId::from_operator(&self.organization).context("organization is not a UUID")?;
        let secret = one_of("secret", self.secret, self.secret_file)?.context("secret is missing")?;
        anyhow::ensure!(secret.len() >= SECRET_BYTES_MIN, "secret has fewer than {SECRET_BYTES_MIN} bytes");
        let password = one_of("password", self.password, self.password_file)?;
        let credentials = match (self.provider, self.user, password) {
            // Twilio's recordings open with the account and its token, or with an API key.
            (Provider::Twilio, user, password) => Some(Credentials {
                user: user.unwrap_or_else(|| self.id.clone()),
                password: password.unwrap_or_else(|| secret.clone()),
            }),
            (Provider::Vapi, Some(user), Some(password)) => Some(Credentials { user, password }),
            (Provider::Vapi, None, None) => None,
            _ => anyhow::bail!("user and password belong together"),
        };
        Ok(Account { provider: self.provider, id: self.id, org, secret, credentials })
    }
}

/// A value, or the content of the file that holds it.
fn one_of(name: &str, value: Option<String>, file: Option<String>) -> anyhow::Result<Option<String>> {
    match (value, file) {
        (Some(_), Some(_)) => anyhow::bail!("both {name} and {name}_file are set"),
        (value @ Some(_), None) => Ok(value),
        (None, Some(path)) => {
            let text =
                std::fs::read_to_string(&path).with_context(|| format!("cannot read {name}_file {path}"))?;
            Ok(Some(text.trim_end().to_owned()))
        }
        (None, None) => Ok(None),
    }
}
