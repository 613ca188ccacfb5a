//! Service files: sections of connection parameters, by the name of a service.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use super::keywords;
use super::parameters::{Parameters, Source};
use crate::Environment;

/// Directory of the system-wide file, unless `PGSYSCONFDIR` is set.
const SYSTEM_DIR: &str = "/etc/postgresql-common";

/// Parameters of a service. The user's file takes precedence over the system's.
///
/// Errors contain neither the name of the service nor the path of a file that cannot be read, because
/// operators sometimes write a password in their place.
pub(super) fn load(name: &str, file: Option<&str>, environment: &Environment) -> anyhow::Result<Parameters> {
    let own = match file {
        Some(file) => {
            let text = std::fs::read_to_string(file)
                .context("cannot read the service file: check servicefile and PGSERVICEFILE")?;
            section(&text, name, Path::new(file))?
        }
        None => find(environment.in_home(".pg_service.conf"), name)?,
    };
    let system = || {
        let dir = environment.variable("PGSYSCONFDIR").unwrap_or_else(|| SYSTEM_DIR.to_owned());
        find(Some(Path::new(&dir).join("pg_service.conf")), name)
    };
    let found = if own.is_some() { own } else { system()? };
    found.context(
        "no service file has a section with the name of the service: add it to ~/.pg_service.conf, or set PGSERVICEFILE",
    )
}

/// Section of a file that need not exist.
fn find(file: Option<PathBuf>, name: &str) -> anyhow::Result<Option<Parameters>> {
    let Some((file, text)) =
        file.and_then(|file| std::fs::read_to_string(&file).ok().map(|text| (file, text)))
    else {
        return Ok(None);
    };
    section(&text, name, &file)
}

/// Parameters of one section. Errors name the line only, because it may contain a password.
fn section(text: &str, name: &str, file: &Path) -> anyhow::Result<Option<Parameters>> {
    let mut found: Option<Parameters> = None;
    for (n, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(title) = line.strip_prefix('[') {
            if found.is_some() {
                break;
            }
            if title.strip_suffix(']') == Some(name) {
                found = Some(Parameters::default());
            }
            continue;
        }
        let Some(parameters) = &mut found else { continue };
        let place = || format!("{}, line {}", file.display(), n + 1);
        if line.starts_with("ldap:") || line.starts_with("ldaps:") {
            bail!("{}: services from LDAP are not supported: write the parameters into the file", place());
        }
        let keyword =
            line.split_once('=').and_then(|(key, value)| Some((keywords::find(key.trim())?, value.trim())));
        let (keyword, value) =
            keyword.with_context(|| format!("{}: write keyword=value, with a keyword of libpq", place()))?;
        if ["service", "servicefile"].contains(&keyword.name) {
            bail!("{}: a service cannot name another service: remove the line", place());
        }
        parameters.set(keyword, value, Source::ServiceFile)?;
    }
    Ok(found)
}
