//! Clusters that begin with the data of another one: standbys, and copies and upgrades of a stopped cluster.

use std::ffi::OsString;

use super::layout::Layout;
use super::{Cluster, ClusterError, ClusterOptions, DataDir, SUPERUSER};

/// Copies one directory into another: the first argument is the source, and the target follows `-D`.
const COPY_SCRIPT: &str = r#"mkdir -p "$3" && chmod 700 "$3" && cp -R -p "$1/." "$3""#;

/// Initialises a directory and moves the data of a cluster into it. The arguments are the directory of the
/// binaries, the source, the superuser, then `initdb` with its arguments and the target, which follows `-D`.
const UPGRADE_SCRIPT: &str = r#"
bin=$1 old=$2 user=$3
shift 3
for new; do :; done
"$@" && cd "$(dirname "$new")" && "$bin/pg_upgrade" -b "$bin" -B "$bin" -d "$old" -D "$new" -U "$user"
"#;

impl Cluster {
    /// Starts a streaming standby of this cluster in a temporary directory, and waits until it accepts
    /// connections. `select pg_promote()` promotes it.
    ///
    /// # Errors
    /// [`ClusterError`]. If PostgreSQL itself failed, it contains the end of the log.
    pub async fn start_standby(&self) -> Result<Self, ClusterError> {
        let mut backup: Vec<OsString> = vec![self.options.binaries.dir().join("pg_basebackup").into()];
        backup.extend(["-h".into(), self.layout.socket_dir.path().into()]);
        // --write-recovery-conf also writes the settings of a standby. --no-password, because a password file
        // would belong to a user's other servers.
        let fixed = "-p 5432 --no-password --checkpoint=fast --write-recovery-conf --no-sync";
        backup.extend(fixed.split(' ').map(Into::into));
        backup.push(format!("--username={SUPERUSER}").into());
        self.start_with_data_of(backup, self.options.settings.clone()).await
    }

    /// Starts a copy of this cluster, which must be stopped, in a temporary directory and with these settings
    /// instead of its own. Waits until it accepts connections. The copy has the same system identifier: only
    /// `initdb` creates a new one.
    ///
    /// # Errors
    /// [`ClusterError`]. If PostgreSQL itself failed, it contains the end of the log.
    pub async fn start_copy(&self, settings: Vec<(String, String)>) -> Result<Self, ClusterError> {
        let mut copy: Vec<OsString> = ["sh", "-c", COPY_SCRIPT, "sh"].map(Into::into).into();
        copy.push(self.layout.data().into());
        self.start_with_data_of(copy, settings).await
    }

    /// Starts a new cluster, in a temporary directory, into which `pg_upgrade` moved the data of this one.
    /// This one must be stopped. The new one has a system identifier of its own. Waits until it accepts
    /// connections.
    ///
    /// # Errors
    /// [`ClusterError`]. If a program of PostgreSQL failed, it contains the end of the log.
    pub async fn start_upgraded(&self) -> Result<Self, ClusterError> {
        let mut upgrade: Vec<OsString> = ["sh", "-c", UPGRADE_SCRIPT, "sh"].map(Into::into).into();
        upgrade.extend([self.options.binaries.dir().into(), self.layout.data().into(), SUPERUSER.into()]);
        upgrade.extend(self.options.init_command());
        self.start_with_data_of(upgrade, self.options.settings.clone()).await
    }

    /// Starts a cluster whose data a program creates in the directory of its option `-D`.
    async fn start_with_data_of(
        &self,
        program: Vec<OsString>,
        settings: Vec<(String, String)>,
    ) -> Result<Self, ClusterError> {
        let options = ClusterOptions { data_dir: DataDir::Temporary, settings, ..self.options.clone() };
        let layout = Layout::temporary(options.binaries.dir()).await?;
        let mut cluster = Self { options, layout, guard: None, is_running: false };
        let created = async {
            cluster.layout.begin_log()?;
            cluster.create_data(program).await
        };
        if let Err(e) = created.await {
            // There may be no guard yet that would remove the directory.
            cluster.layout.discard();
            return Err(e);
        }
        cluster.start_again().await?;
        Ok(cluster)
    }
}
