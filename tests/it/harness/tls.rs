//! A PostgreSQL server with TLS on an address of its own, and the authorities that issue certificates.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SerialNumber, date_time_ymd,
};
use sqlx::{Connection as _, PgConnection};
use warden_devkit::cluster::Cluster;

use super::TestDb;

/// How each role may log in by TCP. All roles are superusers.
const HBA: &str = "local all all trust
hostssl all only_tls all trust
hostnossl all only_plain all trust
hostssl all by_certificate all cert
host all by_password all scram-sha-256
host all either all trust
host all warden_gateway all trust
";

/// Password of the role `by_password`.
const PASSWORD: &str = "p@ss:w/rd #1";

/// When a certificate is valid.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Validity {
    Now,
    /// Until the year 2021.
    Expired,
}

/// An authority that issues certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Certificate of the authority itself.
    pub pem: String,
}

impl Authority {
    /// Creates an authority.
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Issues a certificate with these alternative names and this common name. Returns it with its key.
    pub fn issue(&self, names: &[&str], common_name: &str, validity: Validity) -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        let certificate =
            leaf(names, common_name, validity).signed_by(&key, &self.issuer).expect("a certificate");
        (certificate.pem(), key.serialize_pem())
    }
}

fn leaf(names: &[&str], common_name: &str, validity: Validity) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("parameters");
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.serial_number = Some(SerialNumber::from(fastrand::u64(1..)));
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(if validity == Validity::Expired { 2021 } else { 2099 }, 1, 1);
    params
}

/// A server that the tests reach by TCP, at an address of its own.
pub struct TlsServer {
    pub cluster: Cluster,
    pub db: TestDb,
    pub ip: Ipv4Addr,
    /// Authority of the first certificate.
    pub authority: Authority,
    dir: PathBuf,
}

impl TlsServer {
    /// Starts a server whose certificate is valid for its address and for localhost.
    pub async fn start() -> Self {
        let this = Self::start_plain().await;
        this.offer_tls().await;
        this
    }

    /// Like [`TlsServer::start`], with a system identifier of its own, as servers of different origin have.
    pub async fn start_initialised() -> Self {
        let ip = next_address();
        let cluster = TestDb::create_alone_initialised(&[("listen_addresses", &ip.to_string())]).await;
        let this = Self::prepare(ip, cluster).await;
        this.offer_tls().await;
        this
    }

    /// Starts a server without TLS.
    pub async fn start_plain() -> Self {
        let ip = next_address();
        let cluster = TestDb::create_alone_with(&[("listen_addresses", &ip.to_string())]).await;
        Self::prepare(ip, cluster).await
    }

    async fn offer_tls(&self) {
        let (ip, authority) = (self.ip.to_string(), &self.authority);
        self.file("ca.crt", &authority.pem);
        self.use_certificate(authority.issue(&["localhost", &ip], "server", Validity::Now)).await;
        self.set("ssl_ca_file", &self.path("ca.crt")).await;
        self.set("ssl", "on").await;
    }

    async fn prepare(ip: Ipv4Addr, (cluster, db): (Cluster, TestDb)) -> Self {
        let dir: String = sqlx::query_scalar("select current_setting('data_directory')")
            .fetch_one(&db.pool)
            .await
            .expect("reads");
        let this = Self { cluster, db, ip, authority: Authority::new("good"), dir: dir.into() };
        for role in ["only_tls", "only_plain", "by_certificate", "by_password", "either"] {
            this.db.run(format!("create role {role} login superuser password '{PASSWORD}'")).await;
        }
        this.file("pg_hba.conf", HBA);
        this.db.run("select pg_reload_conf()").await;
        this
    }

    /// Path of a file in the server's directory.
    pub fn path(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    /// Writes a file that belongs to the server. Returns its path.
    pub fn file(&self, name: &str, text: &str) -> String {
        let path = self.dir.join(name);
        let owner = fs::metadata(&self.dir).expect("the directory exists");
        fs::write(&path, text).expect("writes");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("sets");
        if owner.uid() != rustix::process::geteuid().as_raw() {
            chown(&path, Some(owner.uid()), Some(owner.gid())).expect("changes its owner");
        }
        self.path(name)
    }

    /// Sets a setting, and waits until new connections have it.
    pub async fn set(&self, name: &str, value: &str) {
        self.db.run(format!("alter system set {name} = '{value}'")).await;
        self.db.run("select pg_reload_conf()").await;
        // The postmaster reloads before it accepts the next connection that is made after the reload is
        // logged.
        super::eventually("the setting is loaded", async || {
            let mut fresh = PgConnection::connect(self.db.url()).await.expect("connects");
            let now: String = sqlx::query_scalar("select current_setting($1)")
                .bind(name)
                .fetch_one(&mut fresh)
                .await
                .expect("reads");
            now == value
        })
        .await;
    }

    /// Uses a certificate and its key for new connections.
    pub async fn use_certificate(&self, (certificate, key): (String, String)) {
        let name = format!("server-{}", fastrand::u32(..));
        let (certificate, key) =
            (self.file(&format!("{name}.crt"), &certificate), self.file(&format!("{name}.key"), &key));
        // One reload loads both files.
        self.db.run(format!("alter system set ssl_cert_file = '{certificate}'")).await;
        self.set("ssl_key_file", &key).await;
    }

    /// URL of the database by TCP, with these parameters.
    pub fn url(&self, role: &str, parameters: &str) -> String {
        format!("postgres://{role}:{}@{}:5432/{}?{parameters}", password(), self.ip, self.db.name())
    }
}

/// An address of its own for each server, because every test cluster has the same port.
fn next_address() -> Ipv4Addr {
    static COUNT: AtomicU8 = AtomicU8::new(1);
    let [high, low, ..] = std::process::id().to_le_bytes();
    Ipv4Addr::new(127, low.max(1), high, COUNT.fetch_add(1, Ordering::Relaxed))
}

/// The password of the roles, as part of a URL.
fn password() -> String {
    percent_encoding::utf8_percent_encode(PASSWORD, percent_encoding::NON_ALPHANUMERIC).to_string()
}
