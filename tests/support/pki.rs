//! Certificates of the profile of WIRE 10, made for one test.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};

pub use super::directory::{Directory, protect};

use petrel::chain::{Certificate, EXTENSION, IMAGE_EXTENSION, image_extension_value, numbers};
use petrel::unikernel::ImageDigest;
use petrel::wire::{CertExtension, Command, Int, Policy, PolicyCommand};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CustomExtension,
    DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair,
    KeyUsagePurpose, PKCS_ED25519, RevokedCertParams, SerialNumber,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use time::{Duration, OffsetDateTime};

/// A CA: the root, or that of a tenant.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: rcgen::Certificate,
    /// The certificates from here up to the root, which is not among them.
    path: Vec<CertificateDer<'static>>,
}

/// A certificate chain (leaf first, without the root) and the leaf's key.
pub struct Identity {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: KeyPair,
    pub pem: String,
}

impl Authority {
    pub fn root(name: &str) -> Self {
        let (params, key) = (authority(name), key());
        let certificate = params.self_signed(&key).unwrap();
        Self {
            issuer: Issuer::new(params, key),
            certificate,
            path: Vec::new(),
        }
    }

    /// The CA of a tenant, who gets this policy.
    pub fn delegate(&self, label: &str, policy: Policy) -> Self {
        self.delegate_with(label, policy, |_| {})
    }

    /// The same, with other parameters.
    pub fn delegate_with(
        &self,
        label: &str,
        policy: Policy,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Self {
        let mut params = authority(label);
        params
            .custom_extensions
            .push(extension(Command::Policy(PolicyCommand::Add(policy))));
        change(&mut params);
        let key = key();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        // It may sign whatever its certificate says.
        params.key_usages = authority(label).key_usages;
        let mut path = vec![certificate.der().clone()];
        path.extend(self.path.iter().cloned());
        Self {
            issuer: Issuer::new(params, key),
            certificate,
            path,
        }
    }

    /// Another certificate for the key and name of a tenant's CA.
    pub fn renew(&self, label: &str, policy: Policy, of: &Self) -> CertificateDer<'static> {
        let mut params = authority(label);
        params
            .custom_extensions
            .push(extension(Command::Policy(PolicyCommand::Add(policy))));
        params.serial_number = Some(SerialNumber::from(0x7e57));
        let certificate = params.signed_by(of.issuer.key(), &self.issuer).unwrap();
        certificate.der().clone()
    }

    /// A client certificate with this command.
    pub fn leaf(&self, name: &str, command: Command) -> Identity {
        self.issue(client(name, command))
    }

    /// The same, with other parameters.
    pub fn leaf_with(
        &self,
        name: &str,
        command: Command,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Identity {
        let mut params = client(name, command);
        change(&mut params);
        self.issue(params)
    }

    /// The same, for this image only.
    pub fn leaf_for_image(&self, name: &str, command: Command, image: ImageDigest) -> Identity {
        self.leaf_with(name, command, |params| {
            let value = image_extension_value(&image);
            let extension = CustomExtension::from_oid_content(&numbers(&IMAGE_EXTENSION), value);
            params.custom_extensions.push(extension);
        })
    }

    /// The same, that expired a minute ago.
    pub fn expired_leaf(&self, name: &str, command: Command) -> Identity {
        let mut params = client(name, command);
        params.not_before = OffsetDateTime::now_utc() - Duration::hours(1);
        params.not_after = OffsetDateTime::now_utc() - Duration::minutes(1);
        self.issue(params)
    }

    /// A server certificate.
    pub fn server(&self) -> Identity {
        let mut params = end_entity("server");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.issue(params)
    }

    pub fn certificate(&self) -> CertificateDer<'static> {
        self.certificate.der().clone()
    }

    /// The CRL of this authority for an hour, in PEM.
    pub fn crl(&self, revoked: &[CertificateDer<'_>]) -> String {
        self.crl_with(revoked, |_| {})
    }

    /// The same, with other parameters.
    pub fn crl_with(
        &self,
        revoked: &[CertificateDer<'_>],
        change: impl FnOnce(&mut CertificateRevocationListParams),
    ) -> String {
        let now = OffsetDateTime::now_utc();
        let revoked = revoked.iter().map(|certificate| RevokedCertParams {
            serial_number: serial(certificate),
            revocation_time: now - Duration::minutes(1),
            reason_code: None,
            invalidity_date: None,
        });
        let mut params = CertificateRevocationListParams {
            this_update: now - Duration::minutes(1),
            next_update: now + Duration::hours(1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        change(&mut params);
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }

    pub fn pem(&self) -> String {
        self.certificate.pem()
    }

    fn issue(&self, params: CertificateParams) -> Identity {
        let key = key();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let mut chain = vec![certificate.der().clone()];
        chain.extend(self.path.iter().cloned());
        Identity {
            chain,
            key,
            pem: certificate.pem(),
        }
    }
}

/// The serial number of a certificate.
pub fn serial(certificate: &CertificateDer<'_>) -> SerialNumber {
    let certificate = Certificate::read(certificate).unwrap();
    SerialNumber::from_slice(certificate.x509().raw_serial())
}

impl Identity {
    pub fn key_der(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::try_from(self.key.serialize_der()).unwrap()
    }
}

pub fn policy(unikernels: u64) -> Policy {
    Policy {
        cpuids: vec![Int::new(0)],
        unikernels: unikernels.into(),
        memory: Int::new(512),
        block: None,
        bridges: vec!["service".into()],
    }
}

impl Directory {
    /// A runtime directory of daemons.
    pub fn runtime() -> Self {
        let directory = Self::short();
        fs::create_dir(directory.0.join("util")).unwrap();
        directory
    }

    pub fn root(&self) -> &Path {
        &self.0
    }

    pub fn write(&self, file: &str, text: &str) -> PathBuf {
        let path = self.0.join(file);
        fs::write(&path, text).unwrap();
        protect(&path);
        path
    }
}

fn key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ED25519).unwrap()
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = OffsetDateTime::now_utc() - Duration::minutes(5);
    params.not_after = OffsetDateTime::now_utc() + Duration::hours(1);
    params.use_authority_key_identifier_extension = true;
    params
}

fn authority(name: &str) -> CertificateParams {
    let mut params = params(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
    ];
    params
}

fn end_entity(name: &str) -> CertificateParams {
    let mut params = params(name);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
    ];
    params
}

fn client(name: &str, command: Command) -> CertificateParams {
    let mut params = end_entity(name);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.custom_extensions.push(extension(command));
    params
}

fn extension(command: Command) -> CustomExtension {
    let value = CertExtension::new(command).encode().unwrap();
    CustomExtension::from_oid_content(&numbers(&EXTENSION), value)
}
