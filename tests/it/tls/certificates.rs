//! Certificates of servers and clients: which are accepted, and what errors say about the others.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::process::{Command, Stdio};

use super::expect;
use crate::harness::{Authority, TlsServer, Validity};

#[tokio::test]
async fn wrong_certificates_are_rejected_with_the_reason() {
    let server = TlsServer::start().await;
    let other = server.file("other.crt", &Authority::new("other").pem);
    let ip = server.ip.to_string();
    let url = |mode: &str, roots: &str| server.url("either", &format!("sslmode={mode}&sslrootcert={roots}"));
    let good = server.path("ca.crt");
    let unknown = Err("is not signed by an authority in");
    for mode in ["require", "verify-ca", "verify-full"] {
        expect(&url(mode, &other), unknown).await;
        expect(&url(mode, &server.path("none.crt")), Err("sslrootcert: cannot read")).await;
        expect(&url(mode, &server.path("pg_hba.conf")), Err("contains no certificate in PEM form")).await;
    }
    for mode in ["allow", "prefer"] {
        expect(&url(mode, &other), Ok(mode == "prefer")).await;
    }
    // Without a file, `require` encrypts and the others need one.
    expect(&server.url("either", "sslmode=require"), Ok(true)).await;
    expect(&server.url("either", "sslmode=verify-ca"), Err("set sslrootcert to a file, or to system")).await;

    server.use_certificate(server.authority.issue(&["db.example"], &ip, Validity::Now)).await;
    expect(&url("verify-ca", &good), Ok(true)).await;
    expect(&url("verify-full", &good), Err("is not valid for the host name 127.")).await;
    let by_name = format!(
        "postgres://either@db.example/{}?hostaddr={ip}&sslmode=verify-full&sslrootcert={good}",
        server.db.name()
    );
    expect(&by_name, Ok(true)).await;
    expect(
        &by_name.replace("db.example", "db.example.org"),
        Err("is not valid for the host name db.example.org"),
    )
    .await;

    server.use_certificate(server.authority.issue(&[&ip], "server", Validity::Expired)).await;
    for mode in ["verify-ca", "verify-full"] {
        expect(&url(mode, &good), Err("the server's certificate has expired")).await;
    }
    expect(&server.url("either", "sslmode=require"), Ok(true)).await;
    server.cluster.close().await.expect("closes");
}

/// Runs openssl in the server's directory.
pub(super) fn openssl(server: &TlsServer, arguments: &str) {
    let mut command = Command::new("openssl");
    command
        .args(arguments.split(' '))
        .current_dir(server.path(""))
        .stdin(Stdio::null())
        .stderr(Stdio::piped());
    let output = command.output().expect("openssl is installed (scripts/setup)");
    assert!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Lets the server use files that openssl created.
pub(super) async fn use_files(server: &TlsServer, certificate: &str, key: &str) {
    let read = |name: &str| std::fs::read_to_string(server.path(name)).expect("reads");
    server.use_certificate((read(certificate), read(key))).await;
}

#[tokio::test]
async fn certificates_of_the_manual_are_accepted() {
    let server = TlsServer::start().await;
    let ip = server.ip.to_string();
    let url = |host: &str, mode: &str, roots: &str| {
        let (db, roots) = (server.db.name(), server.path(roots));
        format!("postgres://either@{host}/{db}?hostaddr={ip}&sslmode={mode}&sslrootcert={roots}")
    };
    // Self-signed: its own authority, and the host name is the common name only.
    openssl(&server, "req -new -x509 -days 2 -nodes -subj /CN=self.example -out self.crt -keyout self.key");
    use_files(&server, "self.crt", "self.key").await;
    expect(&url("self.example", "verify-full", "self.crt"), Ok(true)).await;
    expect(&url("other.example", "verify-ca", "self.crt"), Ok(true)).await;
    expect(
        &url("other.example", "verify-full", "self.crt"),
        Err("is not valid for the host name other.example"),
    )
    .await;
    expect(&url("self.example", "verify-ca", "ca.crt"), Err("is not signed by an authority in")).await;

    // Signed by an authority, in X.509 version 1.
    openssl(&server, "req -new -x509 -days 2 -nodes -subj /CN=root.example -out root.crt -keyout root.key");
    openssl(&server, "req -new -nodes -subj /CN=*.example -out v1.csr -keyout v1.key");
    openssl(&server, "x509 -req -in v1.csr -days 2 -CA root.crt -CAkey root.key -CAcreateserial -out v1.crt");
    use_files(&server, "v1.crt", "v1.key").await;
    expect(&url("v1.example", "verify-full", "root.crt"), Ok(true)).await;
    expect(&url("a.v1.example", "verify-full", "root.crt"), Err("is not valid for the host name")).await;
    // Another authority of the same name did not sign it.
    openssl(&server, "req -new -x509 -days 2 -nodes -subj /CN=root.example -out fake.crt -keyout fake.key");
    expect(&url("v1.example", "verify-ca", "fake.crt"), Err("is not signed by an authority in")).await;
    expect(
        &url("v1.example", "require", "missing")
            .replace("&sslrootcert=", "&sslcertmode=allow&application_name="),
        Ok(true),
    )
    .await;
    server.cluster.close().await.expect("closes");
}

#[tokio::test]
async fn client_certificates_are_presented() {
    let server = TlsServer::start().await;
    let file = |name: &str, (certificate, key): (String, String)| {
        let certificate = server.file(&format!("{name}.crt"), &certificate);
        let key = server.file(&format!("{name}.key"), &key);
        format!("sslmode=require&sslcert={certificate}&sslkey={key}")
    };
    let good = file("client", server.authority.issue(&[], "by_certificate", Validity::Now));
    let of_other = file("other", Authority::new("other").issue(&[], "by_certificate", Validity::Now));
    let expired = file("expired", server.authority.issue(&[], "by_certificate", Validity::Expired));
    let misnamed = file("misnamed", server.authority.issue(&[], "ann", Validity::Now));
    expect(&server.url("by_certificate", &good), Ok(true)).await;
    expect(&server.url("by_certificate", &good.replace("require", "prefer")), Ok(true)).await;
    expect(&server.url("by_certificate", "sslmode=require"), Err("requires a valid client certificate"))
        .await;
    expect(
        &server.url("by_certificate", &format!("{good}&sslcertmode=disable")),
        Err("requires a valid client"),
    )
    .await;
    expect(&server.url("by_certificate", &of_other), Err("the server rejected the client certificate")).await;
    expect(&server.url("by_certificate", &expired), Err("the server rejected the client certificate")).await;
    expect(&server.url("by_certificate", &misnamed), Err("certificate authentication failed")).await;
    let mixed = good.replace("client.key", "other.key");
    // A mistake in the configuration is no reason for plain text.
    for mode in ["require", "prefer"] {
        let url = server.url("either", &mixed.replace("require", mode));
        expect(&url, Err("do not belong together")).await;
    }
    server.cluster.close().await.expect("closes");
}

#[tokio::test]
async fn client_keys_are_checked_like_libpq() {
    let server = TlsServer::start().await;
    let (certificate, key) = server.authority.issue(&[], "by_certificate", Validity::Now);
    let certificate = server.file("client.crt", &certificate);
    let file = server.file("client.key", &key);
    let with = |key: &str| {
        let parameters = format!("sslmode=require&sslcert={certificate}&sslkey={key}");
        server.url("by_certificate", &parameters)
    };
    let owner = fs::metadata(&file).expect("reads").uid();
    for (mode, is_secret) in [
        (0o600, true),
        (0o400, true),
        (0o640, owner == 0),
        (0o440, owner == 0),
        (0o660, false),
        (0o604, false),
        (0o644, false),
        (0o601, false),
    ] {
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("sets");
        let expected = if is_secret { Ok(true) } else { Err("may be read by others") };
        expect(&with(&file), expected).await;
    }
    if rustix::process::geteuid().is_root() {
        chown(&file, Some(0), None).expect("changes its owner");
        for (mode, is_secret) in [(0o640, true), (0o600, true), (0o660, false), (0o644, false)] {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("sets");
            let expected = if is_secret { Ok(true) } else { Err("or chmod 640 if root owns it") };
            expect(&with(&file), expected).await;
        }
    }
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("sets");
    openssl(&server, "pkey -in client.key -outform DER -out client.der");
    openssl(&server, "pkcs8 -topk8 -in client.key -passout pass:s3cret -out pkcs8.key");
    openssl(&server, "ec -in client.key -aes128 -passout pass:s3cret -out traditional.key");
    for name in ["client.der", "pkcs8.key", "traditional.key"] {
        fs::set_permissions(server.path(name), fs::Permissions::from_mode(0o600)).expect("sets");
    }
    expect(&with(&server.path("client.der")), Ok(true)).await;
    for (name, expected) in [
        ("missing.key", "sslkey: cannot read"),
        ("", "is not a plain file"),
        ("pkcs8.key", "is encrypted, which is not supported: decrypt it (openssl pkey"),
        ("traditional.key", "is encrypted, which is not supported: decrypt it (openssl pkey"),
        ("client.crt", "contains no private key"),
        ("pg_hba.conf", "contains no private key"),
        ("ca.crt", "contains no private key"),
    ] {
        // A mistake in the configuration is no reason for plain text.
        for mode in ["require", "prefer"] {
            let url = with(&server.path(name)).replace("require", mode);
            expect(&url, Err(expected)).await;
        }
    }
    let other = server.file("other.key", &server.authority.issue(&[], "by_certificate", Validity::Now).1);
    expect(&with(&other), Err("do not belong together")).await;
    server.cluster.close().await.expect("closes");
}

#[tokio::test]
async fn client_certificates_of_the_manual_are_presented() {
    let server = TlsServer::start().await;
    openssl(&server, "req -new -x509 -days 2 -nodes -subj /CN=root.example -out root.crt -keyout root.key");
    openssl(&server, "req -new -nodes -subj /CN=by_certificate -out v1.csr -keyout v1.key");
    openssl(&server, "x509 -req -in v1.csr -days 2 -CA root.crt -CAkey root.key -CAcreateserial -out v1.crt");
    let root = fs::read_to_string(server.path("root.crt")).expect("reads");
    server.set("ssl_ca_file", &server.file("roots.crt", &root)).await;
    let parameters =
        format!("sslmode=require&sslcert={}&sslkey={}", server.path("v1.crt"), server.path("v1.key"));
    expect(&server.url("by_certificate", &parameters), Ok(true)).await;
    server.cluster.close().await.expect("closes");
}
