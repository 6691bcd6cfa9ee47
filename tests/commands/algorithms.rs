//! Certificates, requests and CRLs that OpenSSL signs in ways that cannot be checked: errors name the true reason.

use crate::support::{self, client};

use std::fs;
use std::process::Command;

use client::expect;
use petrel::authority::read_chain;
use petrel::chain::crl::{Crl, CrlError};
use petrel::chain::verify::{Anchor, Usage, verify};
use rustls::pki_types::{CertificateDer, UnixTime};
use support::{Directory, on_path, run, skipped};

const AUTHORITY: &str =
    "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\n";

/// A directory where OpenSSL works; `None` without it.
struct Openssl(Directory);

impl Openssl {
    fn new(test: &str) -> Option<Self> {
        if on_path("openssl").is_none() {
            skipped("signatures of OpenSSL", "openssl is missing");
            return None;
        }
        let directory = Directory::new(&format!("algorithms-{test}"));
        directory.file(
            "root.cnf",
            format!("[req]\ndistinguished_name=d\n[d]\n[e]\n{AUTHORITY}"),
        );
        directory.file("authority.ext", AUTHORITY);
        Some(Self(directory))
    }

    fn run(&self, arguments: &str) {
        let mut command = Command::new("openssl");
        let command = command
            .args(arguments.split_whitespace())
            .current_dir(self.0.path(""));
        let ended = run(command);
        assert_eq!(ended.code(), 0, "openssl {arguments}: {ended:?}");
    }

    /// A root authority `ca` with a key of this type.
    fn root(&self, key: &str) {
        self.run(&format!("genpkey {key} -out ca.key"));
        self.run(
            "req -x509 -new -config root.cnf -extensions e -key ca.key -subj /CN=ca -days 9 -out ca.pem",
        );
    }

    /// An authority `below` that the root signs with these options.
    fn below(&self, options: &str) {
        self.run("genpkey -algorithm ED25519 -out below.key");
        self.run("req -new -config root.cnf -key below.key -subj /CN=below -out below.req");
        self.run(&format!(
            "x509 -req -in below.req -CA ca.pem -CAkey ca.key -set_serial 7 -days 9 -extfile authority.ext {options} \
             -out below.pem"
        ));
    }
}

const P256: &str = "-algorithm EC -pkeyopt ec_paramgen_curve:P-256";
const RSA: &str = "-algorithm RSA -pkeyopt rsa_keygen_bits:2048";
const PSS: &str = "-sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:";

#[test]
fn a_signature_that_cannot_be_checked_is_named() {
    let Some(openssl) = Openssl::new("certificates") else {
        return;
    };
    let directory = &openssl.0;
    expect(&directory.path(""), 0, &["info", "-n", "web", "--csr"]);
    let (short, good) = (format!("{PSS}22"), format!("{PSS}32"));
    for (key, options, name) in [
        (P256, "-sha512", Some("ECDSA with SHA-512")),
        (P256, "-sha384", None),
        (RSA, &short, Some("RSA-PSS with SHA-256 and a salt of 22")),
        (RSA, &good, None),
    ] {
        openssl.root(key);
        openssl.below(options);
        let chain = ["below.pem", "ca.pem"].map(|file| fs::read(directory.path(file)).unwrap());
        directory.file("chain.pem", chain.concat());
        let sign = ["sign", "chain.pem", "db", "below.key", "web.req", "--force"];
        let der = |file: &str| {
            CertificateDer::from(read_chain(&directory.path(file)).unwrap().remove(0).der)
        };
        let anchor = [Anchor::new(&der("ca.pem")).unwrap()];
        let Some(name) = name else {
            expect(&directory.path(""), 0, &sign);
            let others = [der("below.pem")];
            let leaf = der("web.pem");
            let path = verify(&leaf, &others, &anchor, UnixTime::now(), Usage::Client);
            assert_eq!(path.unwrap().len(), 2);
            continue;
        };
        let ended = expect(&directory.path(""), 124, &sign);
        assert!(ended.stderr.contains(name), "{ended:?}");
        let single = ["sign", "below.pem", "db", "below.key", "web.req", "--force"];
        expect(&directory.path(""), 0, &single);
        let (leaf, others) = (der("web.pem"), [der("below.pem")]);
        let refused = verify(&leaf, &others, &anchor, UnixTime::now(), Usage::Client);
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains(name), "{refused}");
        fs::remove_file(directory.path("web.pem")).unwrap();
    }
}

#[test]
fn a_request_that_cannot_be_checked_is_named() {
    let Some(openssl) = Openssl::new("requests") else {
        return;
    };
    openssl.root(P256);
    openssl.run("req -new -config root.cnf -sha512 -key ca.key -subj /CN=web -out web.req");
    let sign = ["sign", "ca.pem", "db", "ca.key", "web.req", "--server"];
    let ended = expect(&openssl.0.path(""), 124, &sign);
    assert!(ended.stderr.contains("ECDSA with SHA-512"), "{ended:?}");
}

#[test]
fn a_crl_that_cannot_be_used_says_why() {
    let Some(openssl) = Openssl::new("lists") else {
        return;
    };
    let directory = &openssl.0;
    openssl.root(RSA);
    directory.file("index", "");
    directory.file("number", "01\n");
    let v1 = "[ca]\ndefault_ca=d\n[d]\ndatabase=index\ndefault_md=sha256\ndefault_crl_days=30\n";
    directory.file("v1.cnf", v1);
    let v2 = "crlnumber=number\ncrl_extensions=e\n[e]\nauthorityKeyIdentifier=keyid:always\n";
    directory.file("v2.cnf", format!("{v1}{v2}"));
    let root = read_chain(&directory.path("ca.pem")).unwrap().remove(0);
    let anchor = Anchor::new(&root.der.into()).unwrap();
    let checked = |configuration: &str, options: &str| {
        openssl.run(&format!(
            "ca -config {configuration}.cnf -gencrl -keyfile ca.key -cert ca.pem -out ca.crl {options}"
        ));
        let block = pem::parse(fs::read(directory.path("ca.crl")).unwrap()).unwrap();
        let list = Crl::read(block.contents())?;
        anchor.has_issued(&list)
    };
    assert_eq!(checked("v2", ""), Ok(true));
    let old = checked("v1", "").unwrap_err().to_string();
    assert!(old.contains("version 1"), "{old}");
    let salt = checked("v2", &format!("{PSS}22")).unwrap_err();
    assert!(matches!(salt, CrlError::Algorithm { .. }), "{salt}");
    assert!(salt.to_string().contains("a salt of 22 bytes"), "{salt}");
    let revoke = ["revoke", "ca.pem", "ca.key", "db"];
    let ended = expect(&directory.path(""), 124, &revoke);
    assert!(ended.stderr.contains("a salt of 22 bytes"), "{ended:?}");
}
