//! A web front end that works as mollymawk does: for each command a fresh intermediate certificate and a leaf for 300 s.

use crate::support::{self, host};

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::thread;

use host::Host;
use petrel::chain::verify::Anchor;
use petrel::chain::{
    EXTENSION, IMAGE_EXTENSION, Leaf, image_extension_value, is_followed_by_stream, numbers, route,
};
use petrel::client::tls::{Destination, TlsStream, connect_to};
use petrel::unikernel::{Config, FailBehaviour, ImageDigest, Kind};
use petrel::wire::frame::{END, MAX_CHUNK, MAX_MESSAGE, frame, read_frame, write_frame};
use petrel::wire::{
    BlockCommand, CertExtension, Command, ConsoleCommand, Data, Int, Message, Payload, Policy,
    PolicyCommand, SinceCount, StatsCommand, Success, UnikernelCommand,
};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ED25519,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest as _, Sha256};
use support::guest;
use time::{Duration, OffsetDateTime};

#[test]
fn every_command_of_a_leaf_works_through_fresh_certificates() {
    let mut host = Host::start();
    let image = fs::read(guest("forever.spt")).unwrap();
    let front_end = FrontEnd::new(&host);
    let text = |mut stream: TlsStream| match read(&mut stream).unwrap().payload {
        Payload::Reply(Success::String(text)) => text.to_lossy(),
        other => panic!("{other:?}"),
    };
    let config = |memory| {
        let config = Config {
            kind: Kind::Solo5,
            startup: None,
            add_name: true,
            fail_behaviour: FailBehaviour::Quit,
            cpus: [0].into(),
            memory,
            blocks: Vec::new(),
            nets: Vec::new(),
            arguments: Vec::new(),
            vcpus: 1,
            linux_boot_partition: None,
        };
        config.to_wire(false, Vec::new())
    };
    let unikernel = |command| Command::Unikernel(command);

    let create = unikernel(UnikernelCommand::Create(config(32)));
    let mut stream = front_end.ask("hello", create, &image);
    upload(&mut stream, &image);
    assert_eq!(text(stream), "created unikernel");
    let force = unikernel(UnikernelCommand::ForceCreate(config(40)));
    let mut stream = front_end.ask("hello", force.clone(), &image);
    upload(&mut stream, &image);
    assert_eq!(text(stream), "created unikernel");

    // Another image than the one that was approved.
    let tenders = host.tenders();
    let images = host.names("db/image");
    let mut stream = front_end.ask("other", force, b"what was approved");
    upload(&mut stream, &image);
    let Payload::Failure(refusal) = read(&mut stream).unwrap().payload else {
        panic!("accepted");
    };
    assert!(refusal.to_lossy().contains("SHA-256"));
    host::eventually("nothing of it is left", || {
        host.tenders() == tenders && host.names("db/image") == images
    });

    let mut stream = front_end.ask(".", unikernel(UnikernelCommand::Info(())), b"");
    let Payload::Reply(Success::UnikernelInfo(infos)) = read(&mut stream).unwrap().payload else {
        panic!("no info");
    };
    assert_eq!(infos.len(), 1);
    assert_eq!(infos[0].name.to_lossy(), ":hello");
    assert_eq!(infos[0].info.memory, Int::new(40));
    let mut stream = front_end.ask("hello", unikernel(UnikernelCommand::Get(Int::new(0))), b"");
    let Payload::Reply(Success::UnikernelImage(got)) = read_large(&mut stream).payload else {
        panic!("no image");
    };
    assert_eq!(got.image.0, image);
    let policies = Command::Policy(PolicyCommand::Info(()));
    let mut stream = front_end.ask(".", policies, b"");
    let Payload::Reply(Success::Policies(found)) = read(&mut stream).unwrap().payload else {
        panic!("no policies");
    };
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].policy, policy());

    let subscribe = ConsoleCommand::Subscribe(SinceCount::Count(Int::new(10)));
    let mut stream = front_end.ask("hello", Command::Console(subscribe), b"");
    assert!(matches!(
        read(&mut stream).unwrap().payload,
        Payload::Reply(_)
    ));
    let line = read(&mut stream).unwrap();
    assert!(matches!(line.payload, Payload::Data(Data::Console(_))));
    assert_eq!(line.header.name.to_lossy(), "web-tenant:hello");
    drop(stream);
    assert_eq!(
        text(front_end.ask("hello", unikernel(UnikernelCommand::Destroy(())), b"")),
        "destroyed unikernel"
    );
    let inactive = Command::Console(ConsoleCommand::Inactive(()));
    let mut stream = front_end.ask(".", inactive, b"");
    assert!(matches!(
        read(&mut stream).unwrap().payload,
        Payload::Reply(Success::Consoles(_))
    ));

    // The state was written for what changed, and once a minute, not for each fresh certificate.
    let state = host.path("db/state");
    let written = || fs::metadata(&state).unwrap().modified().unwrap();
    let mut times = BTreeSet::from([written()]);
    for _ in 0..5 {
        read(&mut front_end.ask(".", unikernel(UnikernelCommand::Info(())), b"")).unwrap();
        times.insert(written());
    }
    assert!(times.len() <= 2, "{times:?}");

    // What petreld does not answer yet is played by stand-ins.
    let endpoint = host.endpoint.take().unwrap();
    let supervisor = host.supervisor.take().unwrap();
    supervisor.signal(nix::sys::signal::Signal::SIGTERM);
    supervisor.end();
    let restart = unikernel(UnikernelCommand::Restart(
        petrel::wire::Restart::NoArguments(()),
    ));
    for (label, command, daemon) in [
        ("hello", restart, "vmmd"),
        (".", Command::Block(BlockCommand::Info(())), "vmmd"),
        (
            "disk",
            Command::Block(BlockCommand::Add(Int::new(1))),
            "vmmd",
        ),
        ("disk", Command::Block(BlockCommand::Set(false)), "vmmd"),
        (
            "disk",
            Command::Block(BlockCommand::Dump(Int::new(0))),
            "vmmd",
        ),
        (
            "disk",
            Command::Block(BlockCommand::DumpOld(Int::new(0))),
            "vmmd",
        ),
        ("disk", Command::Block(BlockCommand::Remove(())), "vmmd"),
        (
            ".",
            Command::Statistics(StatsCommand::Subscribe(())),
            "stat",
        ),
    ] {
        assert_ne!(route(&command).leaf, Leaf::Never);
        let stand_in = stand_in(&host, daemon, command.clone());
        let mut stream = front_end.ask(label, command.clone(), b"");
        if is_followed_by_stream(&command) {
            upload(&mut stream, b"content");
        }
        let answer = read(&mut stream).unwrap();
        assert!(matches!(answer.payload, Payload::Reply(_)), "{answer:?}");
        drop(stream);
        let (policies, content) = stand_in.join().unwrap();
        assert_eq!(policies, usize::from(daemon == "vmmd"), "{command:?}");
        assert_eq!(
            content,
            is_followed_by_stream(&command).then(|| b"content".to_vec())
        );
    }
    drop(endpoint);
}

/// A daemon that answers `expected` with a success, after any policies; how many those were, and what was uploaded.
fn stand_in(
    host: &Host,
    name: &str,
    expected: Command,
) -> thread::JoinHandle<(usize, Option<Vec<u8>>)> {
    let path = host.path(format!("run/util/{name}.sock"));
    let _ = fs::remove_file(&path);
    let listener = UnixListener::bind(path).unwrap();
    thread::spawn(move || {
        let (mut connection, _) = listener.accept().unwrap();
        connection
            .set_read_timeout(Some(support::DEADLINE))
            .unwrap();
        let mut policies = 0;
        loop {
            let request = read(&mut connection).unwrap();
            let answer = Payload::Reply(Success::String("done".into()));
            let answer = Message::answer(request.header.clone(), answer)
                .encode()
                .unwrap();
            let is_policy = request.payload != Payload::Command(expected.clone());
            let uploaded = (!is_policy && is_followed_by_stream(&expected)).then(|| {
                let mut content = Vec::new();
                while let Some(chunk) = read_frame(&mut connection, MAX_CHUNK).unwrap() {
                    content.extend(chunk);
                }
                content
            });
            connection.write_all(&frame(&answer).unwrap()).unwrap();
            if !is_policy {
                return (policies, uploaded);
            }
            policies += 1;
        }
    })
}

/// It holds the host's authority, and works for one tenant.
struct FrontEnd {
    address: Destination,
    issuer: Issuer<'static, KeyPair>,
    anchor: Anchor,
}

impl FrontEnd {
    fn new(host: &Host) -> Self {
        let read = |file: &str| fs::read_to_string(host.path(file)).unwrap();
        let certificate = read("cacert.pem");
        let key = KeyPair::from_pem(&read("ca.key")).unwrap();
        let der = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
        Self {
            address: host.address.parse().unwrap(),
            issuer: Issuer::from_ca_cert_der(&der, key).unwrap(),
            anchor: Anchor::new(&der).unwrap(),
        }
    }

    /// A connection with certificates that are made for this command; a create is for this image only.
    fn ask(&self, label: &str, command: Command, image: &[u8]) -> TlsStream {
        let key = || KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let add = Command::Policy(PolicyCommand::Add(policy()));
        let mut tenant = params("web-tenant", add);
        tenant.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        tenant.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let tenant_key = key();
        let tenant_certificate = tenant.signed_by(&tenant_key, &self.issuer).unwrap();
        let tenant = Issuer::new(tenant, tenant_key);

        let creates = matches!(
            command,
            Command::Unikernel(UnikernelCommand::Create(_) | UnikernelCommand::ForceCreate(_))
        );
        let mut leaf = params(label, command);
        leaf.is_ca = IsCa::ExplicitNoCa;
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if creates {
            let value = image_extension_value(&ImageDigest(Sha256::digest(image).into()));
            let extension = CustomExtension::from_oid_content(&numbers(&IMAGE_EXTENSION), value);
            leaf.custom_extensions.push(extension);
        }
        let leaf_key = key();
        let leaf = leaf.signed_by(&leaf_key, &tenant).unwrap();
        connect_to(
            &self.address,
            vec![leaf.der().clone(), tenant_certificate.der().clone()],
            PrivateKeyDer::try_from(leaf_key.serialize_der()).unwrap(),
            vec![self.anchor.clone()],
        )
        .unwrap()
    }
}

fn policy() -> Policy {
    Policy {
        cpuids: vec![Int::new(0)],
        unikernels: Int::new(2),
        memory: Int::new(100),
        block: Some(Int::new(10)),
        bridges: Vec::new(),
    }
}

/// A certificate from now on, for 300 s.
fn params(name: &str, command: Command) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = OffsetDateTime::now_utc() - Duration::seconds(10);
    params.not_after = params.not_before + Duration::seconds(300);
    params.use_authority_key_identifier_extension = true;
    let value = CertExtension::new(command).encode().unwrap();
    params.custom_extensions = vec![CustomExtension::from_oid_content(
        &numbers(&EXTENSION),
        value,
    )];
    params
}

fn upload(stream: &mut TlsStream, image: &[u8]) {
    for chunk in image.chunks(MAX_CHUNK) {
        // It may be refused before its end.
        if write_frame(stream, chunk).is_err() {
            return;
        }
    }
    let _ = stream.write_all(&END);
}

fn read(reader: &mut impl Read) -> Option<Message> {
    let content = read_frame(reader, MAX_MESSAGE).unwrap()?;
    Some(Message::decode(&content).unwrap())
}

fn read_large(reader: &mut impl Read) -> Message {
    Message::decode(&read_frame(reader, 1 << 30).unwrap().unwrap()).unwrap()
}
