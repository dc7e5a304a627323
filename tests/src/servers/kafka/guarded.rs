//! A second listener of the broker that asks who is there: SASL, with TLS or without, and rights.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::java_home;

/// Who may do everything. Nobody else may do anything, except on the listener without a guard.
pub const USER: &str = "relay";
/// A user who may connect, and has no rights.
pub const STRANGER: &str = "stranger";
/// The password of both, and of the key store.
pub const PASSWORD: &str = "hunter2hunter2";

/// How the guarded listener is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Guard {
    /// SASL over plain TCP.
    Plain,
    /// SASL over TLS, with a certificate of the broker's own for `localhost`.
    Tls,
}

impl Guard {
    pub(super) fn protocol(self) -> &'static str {
        match self {
            Self::Plain => "SASL_PLAINTEXT",
            Self::Tls => "SASL_SSL",
        }
    }

    /// The broker's settings beside its listeners.
    pub(super) fn settings(self, home: &Path) -> Vec<(String, String)> {
        let module = |name: &str| format!("org.apache.kafka.common.security.{name} required");
        let scram = format!("{};", module("scram.ScramLoginModule"));
        let listener = [
            ("sasl.enabled.mechanisms", "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER".to_owned()),
            (
                "plain.sasl.jaas.config",
                format!(
                    "{} user_{USER}=\"{PASSWORD}\" user_{STRANGER}=\"{PASSWORD}\";",
                    module("plain.PlainLoginModule")
                ),
            ),
            ("scram-sha-256.sasl.jaas.config", scram.clone()),
            ("scram-sha-512.sasl.jaas.config", scram),
            (
                "oauthbearer.sasl.jaas.config",
                format!(
                    "{} unsecuredLoginStringClaim_sub=\"broker\";",
                    module("oauthbearer.OAuthBearerLoginModule")
                ),
            ),
        ];
        let mut settings: Vec<(String, String)> =
            listener.map(|(name, value)| (format!("listener.name.guarded.{name}"), value)).into();
        settings.push((
            "authorizer.class.name".into(),
            "org.apache.kafka.metadata.authorizer.StandardAuthorizer".into(),
        ));
        settings.push(("super.users".into(), format!("User:ANONYMOUS;User:{USER}")));
        if self == Self::Tls {
            for (name, value) in [
                ("ssl.keystore.type", "PKCS12".to_owned()),
                ("ssl.keystore.location", key_store(home).display().to_string()),
                ("ssl.keystore.password", PASSWORD.to_owned()),
                ("ssl.key.password", PASSWORD.to_owned()),
            ] {
                settings.push((format!("listener.name.guarded.{name}"), value));
            }
        }
        settings
    }

    /// What the storage must know from the beginning.
    pub(super) fn format(self, format: &mut Command) {
        for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-512"] {
            format.arg("--add-scram").arg(format!("{mechanism}=[name={USER},password={PASSWORD}]"));
        }
    }

    /// Makes the broker's key and writes its certificate beside it.
    pub(super) fn certify(self, home: &Path) {
        if self == Self::Plain {
            return;
        }
        let store = key_store(home);
        let common = ["-alias", "broker", "-storepass", PASSWORD, "-storetype", "PKCS12", "-keystore"];
        let make = [
            "-genkeypair",
            "-keyalg",
            "RSA",
            "-keysize",
            "2048",
            "-validity",
            "2",
            "-dname",
            "CN=localhost",
            "-ext",
            "SAN=dns:localhost,ip:127.0.0.1",
            "-ext",
            "BC=ca:true",
        ];
        keytool(Command::new(tool()).args(make).args(common).arg(&store));
        let export = ["-exportcert", "-rfc", "-file"];
        keytool(Command::new(tool()).args(export).arg(certificate(home)).args(common).arg(&store));
    }
}

/// The certificate that clients are to trust.
pub(super) fn certificate(home: &Path) -> PathBuf {
    home.join("broker.pem")
}

fn key_store(home: &Path) -> PathBuf {
    home.join("broker.p12")
}

fn tool() -> PathBuf {
    java_home().map_or_else(|| "keytool".into(), |home| home.join("bin/keytool"))
}

fn keytool(command: &mut Command) {
    let output =
        command.stdin(Stdio::null()).output().expect("keytool, which comes with Java, can be started");
    assert!(output.status.success(), "keytool fails: {}", String::from_utf8_lossy(&output.stdout));
}
