//! `[server.tls]`. Its files are read here, so that what is wrong with them is told where they are named.

use super::raw::{Field, Table};
use super::values::{file_path, positive_duration};
use crate::clock::Clock;
use crate::server::tls::{CertificateFiles, ClientAuth, MinVersion, Part, Settings, Unusable};
use std::path::PathBuf;
use std::time::Duration;

/// None when a certificate is missing or cannot be used.
pub(super) fn read(table: &Table) -> Option<Settings> {
    let first = certificate(table);
    let others = table.read("certificates", |field| field.list(|item| item.table(certificate).flatten()));
    let min_version =
        table.read("min_version", |field| field.choice(&[("1.2", MinVersion::Tls12), ("1.3", MinVersion::Tls13)], &[]));
    let client_auth = client_auth(table);
    let handshake_timeout = table.read("handshake_timeout", positive_duration).unwrap_or(Duration::from_secs(5));
    Some(Settings {
        certificates: std::iter::once(first?).chain(others.unwrap_or_default()).collect(),
        client_auth,
        min_version: min_version.unwrap_or(MinVersion::Tls12),
        handshake_timeout,
    })
}

/// `certificate` and `private_key` of any table.
fn certificate(table: &Table) -> Option<CertificateFiles> {
    let certificate = table.require("certificate", "\"cert.pem\"", file_path);
    let private_key = table.require("private_key", "\"key.pem\"", key_path);
    let files = CertificateFiles { certificate: certificate?, private_key: private_key? };
    match files.read() {
        Ok(read) if read.is_over(Clock::system().now().unix) => {
            table.warn("certificate", "this certificate has expired: clients will refuse it", "renew it");
        }
        Ok(_) => {}
        Err(unusable) => refuse(table, &unusable),
    }
    Some(files)
}

/// The name of a file; never the key itself, which would be shown.
fn key_path(field: &Field) -> Option<PathBuf> {
    if field.string()?.contains("-----") {
        field.hide();
        return field.refuse("is not the name of a file", "write the key into a file, and name that");
    }
    file_path(field)
}

fn client_auth(table: &Table) -> Option<ClientAuth> {
    let ca = table.read("client_ca", file_path);
    let required =
        table.read("client_auth", |field: &Field| field.choice(&[("required", true), ("optional", false)], &[]));
    if table.has("client_auth") && !table.has("client_ca") {
        let message = "`server.tls.client_auth` is there, and `server.tls.client_ca` is not";
        table.refuse("client_auth", message, "add `client_ca = \"ca.pem\"`: whose certificates count");
    }
    let auth = ClientAuth { ca: ca?, required: required.unwrap_or(true) };
    if let Err(unusable) = auth.read() {
        refuse(table, &unusable);
    }
    Some(auth)
}

fn refuse(table: &Table, unusable: &Unusable) {
    let key = match unusable.part {
        Part::Certificate => "certificate",
        Part::PrivateKey => "private_key",
        Part::ClientCa => "client_ca",
    };
    table.refuse(key, unusable.to_string(), unusable.help);
}
