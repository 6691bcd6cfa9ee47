//! CRLs: what `petrel-tls --crl` refuses, and what it tells of it.

use crate::support::{endpoint, pki};

use std::fs;
use std::io::Write;

use endpoint::{Host, failure_text, info, read_message, success};
use petrel::chain::crl::{Crl, CrlError};
use petrel::chain::verify::{Anchor, PathError, Usage, verify_unrevoked};
use pki::{Authority, Identity, policy, serial};
use rcgen::{
    CrlDistributionPoint, CrlIssuingDistributionPoint, KeyIdMethod, KeyUsagePurpose, SerialNumber,
};
use rustls::pki_types::{CertificateDer, UnixTime};
use time::{Duration, OffsetDateTime};

#[test]
fn revoked_certificates_are_refused_from_the_next_connection_on() {
    let host = Host::new();
    let tenant = host.root.delegate("foo", policy(1));
    let other = host.root.delegate("other", policy(1));
    let (one, two) = (tenant.leaf("one", info()), tenant.leaf("two", info()));
    let third = other.leaf("three", info());
    let of_root = host.directory.write("root.crl", &host.root.crl(&[]));
    let of_tenants = host.directory.write("tenants.crl", &tenant.crl(&[]));
    let endpoint = host.listen(&[
        "--crl",
        of_root.to_str().unwrap(),
        "--crl",
        of_tenants.to_str().unwrap(),
    ]);
    let passes = |identity: &Identity| {
        let daemon = host.daemon("vmmd", endpoint::answer_all);
        let mut client = endpoint.connect(identity).unwrap();
        assert_eq!(read_message(&mut client).unwrap().payload, success());
        drop(daemon);
    };
    let refused = |identity: &Identity, name: &str| {
        let error = endpoint.rejection(identity);
        assert!(error.to_string().contains("certificate_revoked"), "{error}");
        let audit = endpoint.log("verdict=\"refused\"");
        assert!(audit.contains("is revoked"), "{audit}");
        assert!(audit.contains(&format!("certificate '{name}'")), "{audit}");
        assert!(
            !audit.contains("certificates="),
            "nothing was verified: {audit}"
        );
    };
    passes(&one);
    // Two lists in one file.
    let both = tenant.crl(&[one.chain[0].clone()]) + &other.crl(&[]);
    fs::write(&of_tenants, both).unwrap();
    refused(&one, "one");
    passes(&two);
    passes(&third);
    fs::write(&of_root, host.root.crl(&[tenant.certificate()])).unwrap();
    refused(&two, "foo");
    passes(&third);
}

#[test]
fn a_crl_beside_the_trusted_certificate_is_used_from_the_next_connection_on() {
    let host = Host::new();
    let (one, two) = (host.root.leaf("one", info()), host.root.leaf("two", info()));
    let accepts = |endpoint: &endpoint::Endpoint, identity: &Identity| {
        let daemon = host.answering("vmmd", success());
        let mut client = endpoint.connect(identity).unwrap();
        assert_eq!(read_message(&mut client).unwrap().payload, success());
        daemon.wait();
    };
    let refuses = |endpoint: &endpoint::Endpoint, reason: &str| {
        let mut client = endpoint.connect(&two).unwrap();
        let text = failure_text(&read_message(&mut client).unwrap());
        assert!(text.contains(reason), "{text}");
    };
    let crl = host.directory.root().join("ca.crl");
    let early = host.listen(&[]);
    let line = early.log("no CRL at ");
    assert!(line.contains("ca.crl"), "{line}");
    accepts(&early, &one);
    fs::write(&crl, host.root.crl(&[one.chain[0].clone()])).unwrap();
    let error = early.rejection(&one);
    assert!(error.to_string().contains("certificate_revoked"), "{error}");
    accepts(&early, &two);
    // A listener that has found it does not go on without it.
    let late = host.listen(&[]);
    fs::remove_file(&crl).unwrap();
    refuses(&late, "cannot be read");
    accepts(&early, &one);
}

#[test]
fn only_a_missing_file_beside_the_trusted_certificate_is_no_crl() {
    let host = Host::new();
    let identity = host.root.leaf("x", info());
    let crl = host.directory.root().join("ca.crl");
    let endpoint = host.listen(&[]);
    let refused = |endpoint: &endpoint::Endpoint| {
        let mut client = endpoint.connect(&identity).unwrap();
        let text = failure_text(&read_message(&mut client).unwrap());
        assert!(text.contains("no certificate is accepted"), "{text}");
    };
    for content in ["", "nothing", "\n"] {
        fs::write(&crl, content).unwrap();
        refused(&endpoint);
    }
    fs::remove_file(&crl).unwrap();
    std::os::unix::fs::symlink("missing", &crl).unwrap();
    refused(&endpoint);
}

#[test]
fn a_list_that_cannot_be_used_refuses_everything_and_says_so() {
    let host = Host::new();
    let now = OffsetDateTime::now_utc();
    let good = host.root.crl(&[]);
    let expired = host.root.crl_with(&[], |list| {
        list.this_update = now - Duration::hours(2);
        list.next_update = now - Duration::seconds(1);
    });
    let later = host.root.crl_with(&[], |list| {
        list.this_update = now + Duration::minutes(10);
    });
    let partial = host.root.crl_with(&[], |list| {
        list.issuing_distribution_point = Some(CrlIssuingDistributionPoint {
            distribution_point: CrlDistributionPoint {
                uris: vec!["http://localhost/".to_owned()],
            },
            scope: None,
        });
    });
    let cut = &good[..good.len() - 20];
    let garbage = "-----BEGIN X509 CRL-----\nMAA=\n-----END X509 CRL-----\n";
    let cases = [
        ("expired", expired, "the CRL expired at"),
        ("later", later, "is not valid before"),
        ("empty", String::new(), "without any CRL"),
        ("garbage", garbage.to_owned(), "cannot be read"),
        ("cut", cut.to_owned(), "damaged"),
        ("cut second", good.clone() + cut, "damaged"),
        ("cut early", good.clone() + "-----BEGIN X5", "damaged"),
        (
            "certificate",
            good.clone() + &host.root.pem(),
            "something else",
        ),
        (
            "namesake",
            Authority::root("root").crl(&[]),
            "not signed by its key",
        ),
        ("partial", partial, "only some certificates of its issuer"),
        (
            "large",
            "x".repeat((4 << 20) + 1),
            "more than 4194304 bytes",
        ),
        (
            "of another",
            Authority::root("other").crl(&[]),
            "no CRL is that of the trusted certificate",
        ),
        (
            "of a tenant",
            host.root.delegate("foo", policy(1)).crl(&[]),
            "no CRL is that of the trusted certificate",
        ),
        ("many", good.repeat(257), "more than 256 CRLs"),
        ("missing", String::new(), "cannot be read"),
    ];
    let file = host.directory.root().join("lists.crl");
    let endpoint = host.listen(&["--crl", file.to_str().unwrap()]);
    let identity = host.root.leaf("x", info());
    for (case, content, reason) in cases {
        fs::write(&file, content).unwrap();
        if case == "missing" {
            fs::remove_file(&file).unwrap();
        }
        let mut client = endpoint.connect(&identity).unwrap();
        let text = failure_text(&read_message(&mut client).unwrap());
        assert!(text.contains(reason), "{case}: {text}");
        assert!(!text.contains("lists.crl"), "{case}: {text}");
        let line = endpoint.log("error: ");
        assert!(line.contains("lists.crl") || case == "missing", "{line}");
        let audit = endpoint.log("verdict=");
        assert!(audit.contains("verdict=\"refused\""), "{audit}");
        assert!(audit.contains(reason), "{case}: {audit}");
    }
}

#[test]
fn lists_of_others_are_told_at_the_start() {
    let host = Host::new();
    let tenant = host.root.delegate("foo", policy(1));
    let file = host.directory.write("lists.crl", &tenant.crl(&[]));
    let arguments = ["--crl", file.to_str().unwrap()];
    let line = host.listen(&arguments).log("error: ");
    assert!(line.contains("no certificate is accepted"), "{line}");
    // Beside that of the trusted certificate it is in order.
    fs::write(&file, host.root.crl(&[]) + &tenant.crl(&[])).unwrap();
    let endpoint = host.listen(&arguments);
    let line = endpoint.log("warning: ");
    assert!(
        line.contains("'CN=foo' is not that of the trusted certificate"),
        "{line}"
    );
    let daemon = host.daemon("vmmd", endpoint::answer_all);
    let mut client = endpoint.connect(&tenant.leaf("x", info())).unwrap();
    assert_eq!(read_message(&mut client).unwrap().payload, success());
    drop(daemon);
}

#[test]
fn lists_are_not_read_for_strangers() {
    let host = Host::new();
    let file = host.directory.write("lists.crl", &host.root.crl(&[]));
    let endpoint = host.listen(&["--crl", file.to_str().unwrap()]);
    // Who reads this finds nothing, and says so.
    fs::remove_file(&file).unwrap();
    nix::unistd::mkfifo(&file, nix::sys::stat::Mode::S_IRWXU).unwrap();
    endpoint.tcp().write_all(b"abc").unwrap();
    assert!(endpoint.log("").contains("handshake failed"));
    endpoint.rejection(&Authority::root("root").leaf("x", info()));
    assert!(endpoint.log("").contains("certificates refused"));
    let mut client = endpoint.connect(&host.root.leaf("x", info())).unwrap();
    let text = failure_text(&read_message(&mut client).unwrap());
    assert!(text.contains("without any CRL"), "{text}");
    let told = endpoint.log("");
    assert!(told.contains("without any CRL"), "{told}");
}

#[test]
fn a_list_that_expires_soon_is_told() {
    let host = Host::new();
    let now = OffsetDateTime::now_utc();
    let valid = |since: Duration, left: Duration| {
        host.root.crl_with(&[], |list| {
            list.this_update = now - since;
            list.next_update = now + left;
        })
    };
    let identity = host.root.leaf("x", info());
    for (list, told) in [
        (valid(Duration::days(24), Duration::hours(167)), true),
        (valid(Duration::days(22), Duration::hours(169)), false),
        // One that is made anew every day.
        (valid(Duration::hours(17), Duration::hours(7)), false),
        (valid(Duration::hours(19), Duration::hours(5)), true),
    ] {
        let file = host.directory.write("lists.crl", &list);
        let endpoint = host.listen(&["--crl", file.to_str().unwrap()]);
        for connection in [false, true] {
            if connection {
                let daemon = host.answering("vmmd", success());
                let mut client = endpoint.connect(&identity).unwrap();
                read_message(&mut client).unwrap();
                daemon.wait();
            }
            if told {
                let line = endpoint.log("warning: ");
                assert!(
                    line.contains("lists.crl") && line.contains("expires in "),
                    "{line}"
                );
            }
        }
        let line = endpoint.log("");
        assert!(line.contains("verdict=\"success\""), "{line}");
    }
}

#[test]
fn an_expired_list_is_used_where_that_is_wanted() {
    let host = Host::new();
    let (one, two) = (host.root.leaf("one", info()), host.root.leaf("two", info()));
    let expired = host.root.crl_with(&[one.chain[0].clone()], |list| {
        list.this_update = OffsetDateTime::now_utc() - Duration::hours(2);
        list.next_update = OffsetDateTime::now_utc() - Duration::hours(1);
    });
    let file = host.directory.write("lists.crl", &expired);
    let endpoint = host.listen(&["--accept-expired-crl", "--crl", file.to_str().unwrap()]);
    let error = endpoint.rejection(&one);
    assert!(error.to_string().contains("certificate_revoked"), "{error}");
    let daemon = host.answering("vmmd", success());
    let mut client = endpoint.connect(&two).unwrap();
    assert_eq!(read_message(&mut client).unwrap().payload, success());
    daemon.wait();
    // At the start, and for each of the two clients; nothing says that certificates will be refused.
    for _ in 0..3 {
        let warning = endpoint.log("warning: ");
        assert!(warning.contains("used nevertheless"), "{warning}");
    }
    assert!(endpoint.log("peer=").contains("verdict=\"success\""));
}

#[test]
fn a_list_of_an_intermediate_that_was_wrongly_signed_refuses_what_it_issued() {
    let host = Host::new();
    let tenant = host.root.delegate("foo", policy(1));
    let other = host.root.delegate("other", policy(1));
    let forged = forged_list(&Authority::root("foo"), &tenant);
    let file = host
        .directory
        .write("lists.crl", &(host.root.crl(&[]) + &forged));
    let endpoint = host.listen(&["--crl", file.to_str().unwrap()]);
    let mut client = endpoint.connect(&tenant.leaf("x", info())).unwrap();
    let answer = read_message(&mut client).unwrap();
    assert!(failure_text(&answer).contains("'foo' was not signed by its key"));
    assert_eq!(answer.header.name, "foo:x".into());
    endpoint.log("verdict=\"refused\"");
    let daemon = host.daemon("vmmd", endpoint::answer_all);
    let mut client = endpoint.connect(&other.leaf("x", info())).unwrap();
    assert_eq!(read_message(&mut client).unwrap().payload, success());
    drop(daemon);
}

#[test]
fn a_list_is_not_that_of_a_namesake() {
    let root = Authority::root("root");
    let webs = ["a", "b"].map(|tenant| {
        let tenant = root.delegate(tenant, policy(1));
        tenant.delegate("web", policy(1))
    });
    let leaf = |web: &Authority| {
        web.leaf_with("x", info(), |params| {
            params.serial_number = Some(SerialNumber::from(7));
        })
    };
    let leaves = webs.each_ref().map(leaf);
    // Both leaves have this number.
    let list = webs[0].crl(&[leaves[0].chain[0].clone()]);
    let revoked = Err(PathError::Revoked {
        name: "x".to_owned(),
        serial: "07".to_owned(),
    });
    assert_eq!(verdict(&root, &leaves[0], &[&list]), revoked);
    assert_eq!(verdict(&root, &leaves[1], &[&list]), Ok(()));
    // One that has neither's key is nobody's.
    let stranger = Authority::root("web").crl(&[leaves[1].chain[0].clone()]);
    assert_eq!(verdict(&root, &leaves[1], &[&stranger]), Ok(()));
    // One that says that it is this one's, but has another signature.
    let forged = forged_list(&webs[0], &webs[1]);
    let wrong = CrlError::Signature("web".to_owned());
    let refused = Err(PathError::Revocation(wrong));
    assert_eq!(verdict(&root, &leaves[1], &[&forged]), refused);
}

#[test]
fn a_renewed_certificate_serves_when_the_old_one_is_revoked() {
    let root = Authority::root("root");
    let tenant = root.delegate("foo", policy(1));
    let list = root.crl(&[tenant.certificate()]);
    let mut identity = tenant.leaf("x", info());
    assert!(verdict(&root, &identity, &[&list]).is_err());
    let renewed = root.renew("foo", policy(1), &tenant);
    identity.chain.push(renewed.clone());
    assert_eq!(verdict(&root, &identity, &[&list]), Ok(()));
    let both = root.crl(&[tenant.certificate(), renewed]);
    assert!(verdict(&root, &identity, &[&both]).is_err());
}

#[test]
fn an_issuer_whose_key_is_not_for_lists_cannot_be_checked() {
    let root = Authority::root("root");
    let tenant = root.delegate_with("foo", policy(1), |params| {
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    });
    let refused = CrlError::KeyUsage("foo".to_owned());
    assert_eq!(
        verdict(&root, &tenant.leaf("x", info()), &[&tenant.crl(&[])]),
        Err(PathError::Revocation(refused))
    );
}

#[test]
fn what_a_list_says_beyond_our_understanding_makes_it_unusable() {
    let root = Authority::root("root");
    let revoked = root.leaf("x", info()).chain[0].clone();
    let list = root.crl_with(&[revoked], |list| {
        list.revoked_certs[0].reason_code = Some(rcgen::RevocationReason::KeyCompromise);
    });
    let der = pem::parse(&list).unwrap().into_contents();
    assert!(Crl::read(&der).is_ok());
    // Object identifiers of extensions are replaced by others, of the same length: 2.5.29.x is 55 1d x.
    let replaced = |from: u8, to: u8| {
        let mut der = der.clone();
        let found = der.windows(3).position(|three| three == [0x55, 0x1d, from]);
        der[found.unwrap() + 2] = to;
        Crl::read(&der)
    };
    // A delta of a list with this number.
    let delta = replaced(20, 27).unwrap_err();
    assert!(delta.to_string().contains("delta"), "{delta}");
    // An unknown extension does not matter, unless it is critical.
    assert!(replaced(20, 99).is_ok());
    for (oid, what) in [(20, "list"), (21, "entry")] {
        let critical = critical(&der, oid);
        let error = Crl::read(&critical).expect_err(what);
        assert!(matches!(error, CrlError::Unreadable(_)), "{error}");
    }
    for end in 0..der.len() {
        assert!(Crl::read(&der[..end]).is_err(), "{end}");
    }
}

/// The same list with the extension 2.5.29.`oid` replaced by an unknown one that is critical, and all lengths right.
fn critical(der: &[u8], oid: u8) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = der;
    while let Some((&tag, after)) = rest.split_first() {
        let (length, head) = match after[0] {
            0x81 => (usize::from(after[1]), 2),
            0x82 => (usize::from(after[1]) << 8 | usize::from(after[2]), 3),
            short => (usize::from(short), 1),
        };
        let content = &after[head..head + length];
        rest = &after[head + length..];
        let content = if content.starts_with(&[6, 3, 0x55, 0x1d, oid]) {
            // SEQUENCE { OID, BOOLEAN TRUE, … }
            [&[6, 3, 0x55, 0x1d, 99, 1, 1, 0xff], &content[5..]].concat()
        } else if tag & 0x20 != 0 {
            critical(content, oid)
        } else {
            content.to_vec()
        };
        out.push(tag);
        let length = u16::try_from(content.len()).unwrap().to_be_bytes();
        match length {
            [0, short] if short < 0x80 => out.push(short),
            [0, middle] => out.extend([0x81, middle]),
            [high, low] => out.extend([0x82, high, low]),
        }
        out.extend(content);
    }
    out
}

/// A list signed by `forger`, of the same name as `victim`, that has the key identifier of `victim`.
fn forged_list(forger: &Authority, victim: &Authority) -> String {
    let genuine = pem::parse(victim.crl(&[])).unwrap().into_contents();
    // KeyIdentifier ::= [0] OCTET STRING in the extension 2.5.29.35
    let oid = [0x55, 0x1d, 35];
    let at = genuine.windows(3).position(|three| three == oid).unwrap();
    let key = genuine[at + 3..]
        .split(|byte| *byte == 0x80)
        .nth(1)
        .unwrap();
    let length = usize::from(key[0]);
    let start = genuine.windows(key.len()).position(|w| w == key).unwrap() + 1;
    let identifier = genuine[start..start + length].to_vec();
    forger.crl_with(&[], |list| {
        list.key_identifier_method = KeyIdMethod::PreSpecified(identifier);
    })
}

/// What becomes of a chain with these lists.
fn verdict(root: &Authority, identity: &Identity, lists: &[&String]) -> Result<(), PathError> {
    let anchor = Anchor::new(&root.certificate()).unwrap();
    let lists: Vec<_> = lists
        .iter()
        .map(|list| Crl::read(pem::parse(list).unwrap().contents()).unwrap())
        .collect();
    let (leaf, others) = identity.chain.split_first().unwrap();
    let others: &[CertificateDer<'_>] = others;
    let now = UnixTime::now();
    verify_unrevoked(leaf, others, &[anchor], &lists, now, Usage::Client).map(|path| {
        assert_eq!(serial(&path[0]), serial(leaf));
    })
}
