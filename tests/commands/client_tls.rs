//! The client from outside, over TLS: the real program, and endpoints of a few lines.

use crate::support::{self, client};

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use client::{directory, downloads, expect, failure, image, inflated, success, upload};
use petrel::authority::{
    Certificate, Issuer, Key, KeyType, Profile, Request, Validity, common_name, read_chain, to_pem,
};
use petrel::chain::image_extension_value;
use petrel::client::tls::REJECTIONS;
use petrel::unikernel::ImageDigest;
use petrel::wire::frame::{MAX_CHUNK, frame, read_frame};
use petrel::wire::{
    BlockCommand, BlockData, Bytes, Command, ConsoleCommand, ConsoleData, Data, Image, Message,
    Payload, PolicyCommand, StatsCommand, Success, Timestamp, UnikernelCommand,
};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    AlertDescription, CertificateError, DigitallySignedStruct, DistinguishedName, OtherError,
    RootCertStore, ServerConfig, ServerConnection, SignatureScheme, StreamOwned,
};
use sha2::Digest;
use support::{DEADLINE, Directory};

const INFO: Command = Command::Unikernel(UnikernelCommand::Info(()));

#[test]
fn a_dash_prints_instead_of_sending() {
    let directory = with_tenant("dash");
    let ended = expect(&directory.path(""), 121, &["info", "--socket=-"]);
    assert!(ended.stdout.starts_with("00000000  30 "), "{ended:?}");
    let arguments = [
        "destroy",
        "web",
        "-d",
        "-",
        "--ca=tenant.pem",
        "--ca-key=tenant.key",
    ];
    let ended = expect(&directory.path(""), 121, &arguments);
    assert_eq!(ended.stderr, "");
    let chain = read_chain(&directory.file("printed.pem", ended.stdout)).unwrap();
    assert_eq!(chain.len(), 2);
    assert_eq!(
        chain[1],
        read_chain(&directory.path("tenant.pem")).unwrap()[0]
    );
    assert_eq!(chain[0].not_after - chain[0].not_before, 310);
    let path: Vec<_> = chain
        .iter()
        .map(|certificate| &certificate.der[..])
        .collect();
    let request = petrel::chain::request(&path).unwrap();
    assert_eq!(request.name.to_string(), "tenant:web");
}

/// A directory with a root authority, a server below it, and a tenant with a policy.
fn with_tenant(test: &str) -> Directory {
    let directory = directory(test);
    let run = |arguments: &[&str]| expect(&directory.path(""), 0, arguments);
    run(&["generate", "root", "db"]);
    run(&[
        "add-policy",
        "tenant",
        "2",
        "--mem=64",
        "--block=10",
        "--csr",
    ]);
    run(&["sign", "cacert.pem", "db", "root.key", "tenant.req"]);
    directory
}

/// Writes `name.pem`, issued by the tenant, and its key.
fn issue(directory: &Directory, name: &str, profile: &Profile) {
    let key_file = directory.path(&format!("{name}.key"));
    let (key, _) = Key::reuse_or_generate(&key_file, KeyType::Ed25519).unwrap();
    let issuer =
        Issuer::load(&directory.path("tenant.pem"), &directory.path("tenant.key")).unwrap();
    let certificate = issuer
        .issue(
            common_name(name),
            &key.public_key_info(),
            profile,
            Validity::days(time::OffsetDateTime::now_utc(), 1).unwrap(),
        )
        .unwrap();
    let chain = to_pem([&certificate, issuer.certificate()]);
    directory.file(&format!("{name}.pem"), chain);
}

/// Writes `web.pem`, which carries `command` and perhaps fixes an image, and its key.
fn issue_command(directory: &Directory, command: Command, image: Option<ImageDigest>) {
    issue(directory, "web", &Profile::Client(command, image));
}

fn der(chain: &[Certificate]) -> Vec<CertificateDer<'static>> {
    chain
        .iter()
        .map(|certificate| certificate.der.clone().into())
        .collect()
}

type ServerStream = StreamOwned<ServerConnection, std::net::TcpStream>;

/// An endpoint that shows the certificate in `name.pem`, takes clients below `authority`, and lets `serve` speak.
fn endpoint<T: Send + 'static>(
    directory: &Directory,
    name: &str,
    authority: &str,
    serve: impl FnOnce(&mut ServerStream) -> T + Send + 'static,
) -> (String, Receiver<T>) {
    endpoint_for(directory, name, known(directory, authority), serve)
}

/// The clients of this authority.
fn known(directory: &Directory, authority: &str) -> Arc<dyn ClientCertVerifier> {
    let mut roots = RootCertStore::empty();
    for root in der(&read_chain(&directory.path(authority)).unwrap()) {
        roots.add(root).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    WebPkiClientVerifier::builder_with_provider(roots.into(), provider)
        .build()
        .unwrap()
}

/// The same with another opinion of its clients.
fn endpoint_for<T: Send + 'static>(
    directory: &Directory,
    name: &str,
    clients: Arc<dyn ClientCertVerifier>,
    serve: impl FnOnce(&mut ServerStream) -> T + Send + 'static,
) -> (String, Receiver<T>) {
    let mut serve = Some(serve);
    listen(directory, name, clients, 1, move |stream| {
        serve.take().unwrap()(stream)
    })
}

/// The same for a number of clients, one after the other; what the last one led to.
fn endpoint_of_several<T: Send + 'static>(
    directory: &Directory,
    connections: usize,
    serve: impl FnMut(&mut ServerStream) -> T + Send + 'static,
) -> (String, Receiver<T>) {
    listen(
        directory,
        "server",
        known(directory, "cacert.pem"),
        connections,
        serve,
    )
}

fn listen<T: Send + 'static>(
    directory: &Directory,
    name: &str,
    clients: Arc<dyn ClientCertVerifier>,
    connections: usize,
    mut serve: impl FnMut(&mut ServerStream) -> T + Send + 'static,
) -> (String, Receiver<T>) {
    let chain = read_chain(&directory.path(&format!("{name}.pem"))).unwrap();
    let key_file = directory.path(&format!("{name}.key"));
    let key = Key::load(&key_file, &chain[0], Path::new("")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(clients)
        .with_single_cert(
            der(&chain),
            PrivateKeyDer::Pkcs8(key.pkcs8().to_vec().into()),
        )
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let place = listener.local_addr().unwrap().to_string();
    let config = Arc::new(config);
    let (send, result) = channel();
    let mut serve_next = move || {
        let (socket, _) = listener.accept().unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        socket.set_write_timeout(Some(DEADLINE)).unwrap();
        let connection = ServerConnection::new(config.clone()).unwrap();
        let mut stream = StreamOwned::new(connection, socket);
        while stream.conn.is_handshaking() {
            if stream.conn.complete_io(&mut stream.sock).is_err() {
                // With the alert that says why, and until the client has read it.
                let _ = stream.sock.shutdown(Shutdown::Write);
                let _ = stream.sock.read_to_end(&mut Vec::new());
                return None;
            }
        }
        let served = serve(&mut stream);
        stream.conn.send_close_notify();
        let _ = stream.conn.complete_io(&mut stream.sock);
        // As the endpoint does: closed with something unread, the socket would take the answer back.
        let _ = stream.sock.shutdown(Shutdown::Write);
        let _ = std::io::copy(&mut stream.sock, &mut std::io::sink());
        Some(served)
    };
    thread::spawn(move || {
        let served: Vec<_> = (0..connections).filter_map(|_| serve_next()).collect();
        if let Some(last) = served.into_iter().last() {
            let _ = send.send(last);
        }
    });
    (place, result)
}

/// An answer of the endpoint, which has no request to answer but the chain.
fn tell(stream: &mut ServerStream, payload: Payload) {
    let header = Message::command(0, &"tenant:web".parse().unwrap(), INFO).header;
    let bytes = frame(&Message::answer(header, payload).encode().unwrap()).unwrap();
    stream.write_all(&bytes).unwrap();
}

const TENANT: [&str; 2] = ["--ca=tenant.pem", "--ca-key=tenant.key"];

#[test]
fn over_tls_the_certificate_is_the_command() {
    let directory = with_tenant("tls");
    let (place, served) = endpoint(&directory, "server", "cacert.pem", |stream| {
        let chain = stream.conn.peer_certificates().unwrap().to_vec();
        tell(stream, success("destroyed unikernel"));
        petrel::chain::request(&chain).unwrap()
    });
    let arguments = [&["destroy", "web", "-d", &place], &TENANT[..]].concat();
    let ended = expect(&directory.path(""), 0, &arguments);
    assert_eq!(
        ended.stdout,
        "host [unikernel: tenant:web]: success: destroyed unikernel\n"
    );
    let request = served.recv_timeout(DEADLINE).unwrap();
    assert_eq!(request.name.to_string(), "tenant:web");
    assert_eq!(
        request.command,
        Command::Unikernel(UnikernelCommand::Destroy(()))
    );
}

#[test]
fn over_tls_an_image_is_streamed_compressed() {
    let directory = with_tenant("tls-create");
    let image = image(&directory, 2_000_000);
    let (place, served) = endpoint(&directory, "server", "cacert.pem", |stream| {
        let bytes = upload(stream);
        tell(stream, success("created unikernel"));
        bytes
    });
    let arguments = [&["create", "web", "image", "-d", &place], &TENANT[..]].concat();
    expect(&directory.path(""), 0, &arguments);
    let sent = served.recv_timeout(DEADLINE).unwrap();
    // The zlib header of levels 7 to 9.
    assert_eq!(sent[..2], [0x78, 0xda]);
    let bytes = inflated(&sent);
    assert!(bytes == fs::read(image).unwrap(), "the image differs");
}

#[test]
fn over_tls_a_failure_in_the_middle_of_an_upload_is_shown() {
    let directory = with_tenant("tls-early");
    image(&directory, 16 << 20);
    let (place, served) = endpoint(&directory, "server", "cacert.pem", |stream| {
        read_frame(stream, MAX_CHUNK).unwrap().unwrap();
        tell(stream, failure("no room"));
    });
    let create = [
        "create",
        "web",
        "image",
        "--compression-level=0",
        "-d",
        &place,
    ];
    let ended = expect(&directory.path(""), 117, &[&create, &TENANT[..]].concat());
    assert!(ended.stderr.contains("no room"), "{ended:?}");
    served.recv_timeout(DEADLINE).unwrap();
}

#[test]
fn a_signed_certificate_is_used_with_its_image() {
    let directory = with_tenant("certificate");
    let image = image(&directory, 100_000);
    let run = |code, arguments: &[&str]| expect(&directory.path(""), code, arguments);
    run(0, &["create", "web", "image", "--csr"]);
    run(0, &["sign", "tenant.pem", "db", "tenant.key", "web.req"]);
    let (place, served) = endpoint(&directory, "server", "cacert.pem", |stream| {
        let bytes = upload(stream);
        tell(stream, success("created unikernel"));
        bytes
    });
    let certificate = ["certificate", "web.pem", "web.key", "-d", &place];
    run(124, &certificate);
    run(
        124,
        &[
            "certificate",
            "web.pem",
            "tenant.key",
            "-d",
            &place,
            "--image=image",
        ],
    );
    run(
        124,
        &[
            &certificate[..],
            &["--image=image", "--compression-level=0"],
        ]
        .concat(),
    );
    let printed = run(
        121,
        &[
            "certificate",
            "web.pem",
            "web.key",
            "-d",
            "-",
            "--image=image",
        ],
    );
    assert_eq!(
        printed.stdout,
        fs::read_to_string(directory.path("web.pem")).unwrap()
    );
    run(0, &[&certificate[..], &["--image=image"]].concat());
    let sent = served.recv_timeout(DEADLINE).unwrap();
    let bytes = inflated(&sent);
    assert!(bytes == fs::read(image).unwrap(), "the image differs");
}

#[test]
fn over_tls_an_end_without_an_answer_is_no_success() {
    let directory = with_tenant("tls-none");
    for command in [&["policy"][..], &["stop", "web"]] {
        let (place, served) = endpoint(&directory, "server", "cacert.pem", |_| ());
        let arguments = [command, &["-d", &place], &TENANT[..]].concat();
        let ended = expect(&directory.path(""), 121, &arguments);
        assert!(ended.stderr.contains("without an answer"), "{ended:?}");
        let own = ended.stderr.contains("which albatross does not know");
        assert_eq!(own, command[0] == "stop", "{ended:?}");
        served.recv_timeout(DEADLINE).unwrap();
    }
}

#[test]
fn over_tls_info_is_asked_for_again_where_details_are_unknown() {
    for closes in [true, false] {
        let directory = with_tenant("tls-details");
        let mut kinds = Vec::new();
        let (place, served) = endpoint_of_several(&directory, 2, move |stream| {
            let chain = stream.conn.peer_certificates().unwrap();
            let asked = petrel::chain::request(&chain[..2]).unwrap();
            kinds.push(petrel::chain::route(&asked.command).kind);
            match kinds.len() {
                1 if closes => {}
                1 => {
                    stream.flush().unwrap();
                    stream.sock.shutdown(Shutdown::Both).unwrap();
                }
                _ => tell(stream, Payload::Reply(Success::UnikernelInfo(Vec::new()))),
            }
            kinds.clone()
        });
        let arguments = [&["info", "-d", &place], &TENANT[..]].concat();
        let ended = expect(&directory.path(""), 0, &arguments);
        assert!(ended.stdout.contains("no unikernels"), "{ended:?}");
        let asked = served.recv_timeout(DEADLINE).unwrap();
        assert_eq!(asked, ["unikernel details", "unikernel info"]);
    }
}

#[test]
fn each_side_that_is_not_trusted_has_its_exit_code() {
    let directory = with_tenant("trust");
    let other = with_tenant("trust-other");
    fs::copy(other.path("cacert.pem"), directory.path("other.pem")).unwrap();
    let info = |place: &str, code, more: &[&str]| {
        let arguments = [&["info", "-d", place], &TENANT[..], more].concat();
        expect(&directory.path(""), code, &arguments)
    };

    // Our chain does not lead to the server's authority: there is not even a connection.
    info("127.0.0.1:1", 116, &["--server-ca=other.pem"]);
    // Nobody is there.
    let closed = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    info(&closed.to_string(), 122, &[]);
    // Another authority's server.
    let (place, _) = endpoint(&other, "server", "cacert.pem", |_| ());
    info(&place, 120, &[]);
    // The server does not know our authority.
    let (place, _) = endpoint(&directory, "server", "other.pem", |_| ());
    info(&place, 119, &[]);
}

#[test]
fn a_tenant_cannot_play_the_server() {
    let directory = with_tenant("tenant-server");
    issue(&directory, "fake", &Profile::Server);
    let (place, _) = endpoint(&directory, "fake", "cacert.pem", |_| ());
    let ended = expect(
        &directory.path(""),
        120,
        &[&["info", "-d", &place], &TENANT[..]].concat(),
    );
    assert!(ended.stderr.contains("tenant"), "{ended:?}");
}

#[test]
fn what_the_policy_forbids_is_not_even_sent() {
    let directory = with_tenant("precheck");
    image(&directory, 0);
    let create = ["create", "web", "image", "--mem=65", "-d", "127.0.0.1:1"];
    let ended = expect(&directory.path(""), 124, &[&create, &TENANT[..]].concat());
    assert!(ended.stderr.contains("beyond the policy"), "{ended:?}");
    for refused in [
        &["destroy", "foo:web"][..],
        &["add-policy", "foo", "1"],
        &["remove-policy"],
        &["policy", "--path=foo"],
    ] {
        let arguments = [refused, &["-d", "127.0.0.1:1"], &TENANT[..]].concat();
        expect(&directory.path(""), 124, &arguments);
    }
    // A key of somebody else.
    let arguments = [
        "info",
        "-d",
        "127.0.0.1:1",
        "--ca=tenant.pem",
        "--ca-key=root.key",
    ];
    expect(&directory.path(""), 124, &arguments);
}

/// An opinion of all clients.
#[derive(Debug)]
struct Refusing(CertificateError);

impl ClientCertVerifier for Refusing {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Err(self.0.clone().into())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        unreachable!()
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        unreachable!()
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        petrel::tls::schemes()
    }
}

#[test]
fn every_alert_about_our_certificate_ends_with_119() {
    let directory = with_tenant("alerts");
    image(&directory, 4 << 20);
    let other = || CertificateError::Other(OtherError(Arc::new(std::fmt::Error)));
    let cases = [
        (
            CertificateError::BadEncoding,
            AlertDescription::BadCertificate,
        ),
        (
            CertificateError::InvalidPurpose,
            AlertDescription::UnsupportedCertificate,
        ),
        (
            CertificateError::Revoked,
            AlertDescription::CertificateRevoked,
        ),
        (
            CertificateError::Expired,
            AlertDescription::CertificateExpired,
        ),
        (other(), AlertDescription::CertificateUnknown),
        (CertificateError::UnknownIssuer, AlertDescription::UnknownCA),
        (
            CertificateError::ApplicationVerificationFailure,
            AlertDescription::AccessDenied,
        ),
        (
            CertificateError::BadSignature,
            AlertDescription::DecryptError,
        ),
    ];
    for (opinion, alert) in cases {
        // With an upload the client is writing when the alert comes.
        for command in [&["info"][..], &["create", "web", "image"]] {
            let clients = Arc::new(Refusing(opinion.clone()));
            let (place, _) = endpoint_for(&directory, "server", clients, |_| ());
            let arguments = [command, &["-d", &place], &TENANT[..]].concat();
            let ended = expect(&directory.path(""), 119, &arguments);
            let (_, reason) = REJECTIONS
                .iter()
                .find(|(known, _)| *known == alert)
                .unwrap();
            assert!(ended.stderr.contains(reason), "{ended:?}");
            assert!(
                ended.stderr.starts_with(&format!("petrel: {place}: ")),
                "{ended:?}"
            );
        }
    }
}

#[test]
fn alerts_about_the_protocol_end_with_121() {
    let directory = with_tenant("protocol");
    for (alert, name) in [
        (AlertDescription::HandshakeFailure, "handshake_failure"),
        (AlertDescription::ProtocolVersion, "protocol_version"),
        (AlertDescription::InternalError, "internal_error"),
        (AlertDescription::UnrecognisedName, "unrecognized_name"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let place = listener.local_addr().unwrap().to_string();
        let server = thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            socket.set_read_timeout(Some(DEADLINE)).unwrap();
            // A record with a fatal alert.
            socket
                .write_all(&[21, 3, 3, 0, 2, 2, u8::from(alert)])
                .unwrap();
            socket.shutdown(Shutdown::Write).unwrap();
            let _ = socket.read_to_end(&mut Vec::new());
        });
        let arguments = [&["info", "-d", &place], &TENANT[..]].concat();
        let ended = expect(&directory.path(""), 121, &arguments);
        assert!(ended.stderr.contains(name), "{ended:?}");
        server.join().unwrap();
    }
}

#[test]
fn a_server_that_vanishes_without_closing_ends_with_121() {
    let directory = with_tenant("vanish");
    for answered in [false, true] {
        let (place, _) = endpoint(&directory, "server", "cacert.pem", move |stream| {
            if answered {
                tell(stream, success("subscribed"));
            }
            // So that nothing can be said any more.
            stream.flush().unwrap();
            stream.sock.shutdown(Shutdown::Write).unwrap();
        });
        let arguments = [&["console", "web", "-d", &place], &TENANT[..]].concat();
        let ended = expect(&directory.path(""), 121, &arguments);
        assert!(ended.stderr.contains("vanished"), "{ended:?}");
    }
}

#[test]
fn a_subscription_that_is_closed_over_tls_ends_with_121() {
    let directory = with_tenant("closed");
    let (place, _) = endpoint(&directory, "server", "cacert.pem", |stream| {
        tell(stream, success("subscribed"));
    });
    let arguments = [&["stats", "-d", &place], &TENANT[..]].concat();
    let ended = expect(&directory.path(""), 121, &arguments);
    assert!(
        ended.stderr.contains("broken off 'stats subscribe'"),
        "{ended:?}"
    );
}

/// Everything that can be asked for by a certificate.
const REQUESTS: [&[&str]; 20] = [
    &["create", "web", "image"],
    &["create", "web", "image", "--force"],
    &["destroy", "web"],
    &["restart", "web"],
    &["restart", "web", "--replace-arguments", "--mem=40"],
    &["stop", "web"],
    &["start", "web"],
    &["rollback", "web"],
    &["info"],
    &["info", "--details"],
    &["get", "web"],
    &["console", "web"],
    &["inactive-consoles"],
    &["stats"],
    &["policy"],
    &["block"],
    &["create-block", "web", "10"],
    &["set-block", "web", "image"],
    &["dump-block", "web"],
    &["destroy-block", "web"],
];

/// The same in the words of the protocol.
fn kinds() -> Vec<&'static str> {
    vec![
        "unikernel create",
        "unikernel force-create",
        "unikernel destroy",
        "unikernel restart",
        "unikernel restart",
        "unikernel stop",
        "unikernel start",
        "unikernel rollback",
        "unikernel info",
        "unikernel details",
        "unikernel get",
        "console subscribe",
        "console inactive",
        "stats subscribe",
        "policy info",
        "block info",
        "block add",
        "block set",
        "block dump",
        "block remove",
    ]
}

fn digest(file: &Path) -> ImageDigest {
    ImageDigest(sha2::Sha256::digest(fs::read(file).unwrap()).into())
}

#[test]
fn every_command_can_be_requested_and_printed() {
    let directory = with_tenant("requests");
    let image = image(&directory, 0);
    let fixed = image_extension_value(&digest(&image));
    for (arguments, kind) in REQUESTS.into_iter().zip(kinds()) {
        let csr = [arguments, &["--csr"]].concat();
        let ended = expect(&directory.path(""), 0, &csr);
        let stem = if arguments.contains(&"web") {
            "web"
        } else {
            "_path"
        };
        let lines: Vec<&str> = ended.stdout.lines().collect();
        let first = format!("signing request {stem}.req key {stem}.key");
        assert_eq!(lines[0], first);
        let sign = format!("petrel sign CACERT DB CAKEY {stem}.req");
        assert!(lines[lines.len() - 2].ends_with(&sign), "{ended:?}");
        let stream = match kind {
            "unikernel create" | "unikernel force-create" => " --image image",
            "block set" => " --data image",
            _ => "",
        };
        let then = format!("then: petrel certificate -d HOST{stream} {stem}.pem {stem}.key");
        assert_eq!(lines[lines.len() - 1], then);
        let request = Request::read(&directory.path(&format!("{stem}.req"))).unwrap();
        let asked = request.command.unwrap();
        assert_eq!(petrel::chain::route(&asked).kind, kind);
        assert_eq!(request.common_name, if stem == "web" { "web" } else { "." });

        // The same command as the certificate of a moment.
        let printed = expect(
            &directory.path(""),
            121,
            &[arguments, &["-d", "-"], &TENANT[..]].concat(),
        );
        let chain = read_chain(&directory.file("printed.pem", printed.stdout)).unwrap();
        let path: Vec<_> = chain.iter().map(|one| &one.der[..]).collect();
        let issued = petrel::chain::request(&path).unwrap();
        assert_eq!(issued.command, asked, "{arguments:?}");

        // Both fix the image, if there is one to be created.
        let der = fs::read_to_string(directory.path(&format!("{stem}.req"))).unwrap();
        let der = pem::parse(der).unwrap();
        let holds = der
            .contents()
            .windows(fixed.len())
            .any(|part| part == fixed);
        let creates = kind.contains("create");
        assert_eq!(holds, creates, "{arguments:?}");
        assert_eq!(
            issued.image,
            creates.then(|| digest(&image)),
            "{arguments:?}"
        );
        let shown = format!("image image sha256 {}", digest(&image));
        assert_eq!(lines.contains(&&shown[..]), creates, "{ended:?}");
    }
    let policy = expect(&directory.path(""), 0, &["add-policy", "sub", "1", "--csr"]);
    assert!(
        policy
            .stdout
            .ends_with("then: petrel COMMAND -d HOST --ca sub.pem --ca-key sub.key\n"),
        "{policy:?}"
    );
}

#[test]
fn what_no_certificate_can_carry_is_not_asked_for() {
    let directory = with_tenant("never");
    for command in [
        &["stats-add", "1"][..],
        &["stats-remove"],
        &["remove-policy"],
    ] {
        for destination in [&["--csr"][..], &["-d", "127.0.0.1:1"]] {
            let ended = expect(
                &directory.path(""),
                124,
                &[command, destination, &TENANT[..]].concat(),
            );
            assert!(
                ended.stderr.contains("on the host itself only"),
                "{ended:?}"
            );
        }
    }
}

#[test]
fn the_certificate_of_a_path_has_files_that_are_seen() {
    let directory = with_tenant("path");
    expect(&directory.path(""), 0, &["info", "--csr"]);
    let sign = ["sign", "tenant.pem", "db", "tenant.key", "_path.req"];
    expect(&directory.path(""), 0, &sign);
    let (place, _) = endpoint(&directory, "server", "cacert.pem", |stream| {
        tell(stream, Payload::Reply(Success::UnikernelInfo(Vec::new())));
    });
    let certificate = ["certificate", "_path.pem", "_path.key", "-d", &place];
    let ended = expect(&directory.path(""), 0, &certificate);
    assert!(ended.stdout.ends_with(": no unikernels\n"), "{ended:?}");
}

#[test]
fn a_certificate_takes_only_the_image_it_is_for() {
    let directory = with_tenant("fixed");
    let good = image(&directory, 100_000);
    fs::copy(support::guest("hello.spt"), directory.path("other")).unwrap();
    expect(&directory.path(""), 0, &["create", "web", "image", "--csr"]);
    let command = Request::read(&directory.path("web.req")).unwrap().command;
    issue_command(&directory, command.unwrap(), Some(digest(&good)));
    // Nobody listens there: it is refused before.
    let certificate = ["certificate", "web.pem", "web.key", "-d"];
    let wrong = [&certificate[..], &["127.0.0.1:1", "--image=other"]].concat();
    let ended = expect(&directory.path(""), 124, &wrong);
    let found = digest(&directory.path("other")).to_string();
    assert!(ended.stderr.contains(&found), "{ended:?}");
    assert!(
        ended.stderr.contains(&digest(&good).to_string()),
        "{ended:?}"
    );
    let (place, served) = endpoint(&directory, "server", "cacert.pem", |stream| {
        let bytes = upload(stream);
        tell(stream, success("created unikernel"));
        bytes
    });
    let right = [&certificate[..], &[&place, "--image=image"]].concat();
    expect(&directory.path(""), 0, &right);
    let sent = served.recv_timeout(DEADLINE).unwrap();
    let bytes = inflated(&sent);
    assert!(bytes == fs::read(good).unwrap(), "the image differs");
}

#[test]
fn a_certificate_for_the_content_of_a_device_sends_it() {
    let directory = with_tenant("device");
    directory.file("content", vec![7; 100_000]);
    for compressed in [false, true] {
        issue_command(
            &directory,
            Command::Block(BlockCommand::Set(compressed)),
            None,
        );
        let (place, served) = endpoint(&directory, "server", "cacert.pem", |stream| {
            let bytes = upload(stream);
            tell(stream, success("set block device"));
            bytes
        });
        let certificate = ["certificate", "web.pem", "web.key", "-d", &place];
        let run = |code, options: &[&str]| {
            expect(
                &directory.path(""),
                code,
                &[&certificate[..], options].concat(),
            )
        };
        let ended = run(124, &[]);
        assert!(ended.stderr.contains("--data"), "{ended:?}");
        run(124, &["--data=content", "--image=content"]);
        run(124, &["--data=missing"]);
        run(0, &["--data=content"]);
        let sent = served.recv_timeout(DEADLINE).unwrap();
        assert_eq!(sent.len() < 100_000, compressed);
    }
}

#[test]
fn options_of_no_use_to_a_certificate_are_refused() {
    let directory = with_tenant("useless");
    image(&directory, 0);
    issue_command(&directory, INFO, None);
    for option in ["--image=image", "--data=image", "--compression-level=3"] {
        let arguments = [
            "certificate",
            "web.pem",
            "web.key",
            "-d",
            "127.0.0.1:1",
            option,
        ];
        let ended = expect(&directory.path(""), 124, &arguments);
        assert!(ended.stderr.contains("'unikernel info'"), "{ended:?}");
    }
}

#[test]
fn a_certificate_shows_answers_of_every_kind() {
    let subscribed = || success("subscribed");
    let line = Payload::Data(Data::Console(ConsoleData {
        timestamp: Timestamp::from_unix(0, 0),
        data: "hello".into(),
    }));
    let reply = Payload::Reply;
    let image = || Image {
        compressed: false,
        image: Bytes(b"content".to_vec()),
    };
    let dumped = |data| Payload::Data(Data::Block(data));
    let history = petrel::wire::SinceCount::Count(petrel::wire::Int::new(1));
    let cases: [(Command, Vec<Payload>, i32, &str); 7] = [
        (
            Command::Console(ConsoleCommand::Subscribe(history)),
            vec![subscribed(), line, failure("over")],
            117,
            "console 1970-01-01T00:00:00-00:00: hello",
        ),
        (
            Command::Statistics(StatsCommand::Subscribe(())),
            vec![subscribed(), failure("over")],
            117,
            "subscribed",
        ),
        (
            Command::Policy(PolicyCommand::Info(())),
            vec![reply(Success::Policies(Vec::new()))],
            0,
            "no policies",
        ),
        (
            Command::Unikernel(UnikernelCommand::Get(petrel::wire::Int::new(0))),
            vec![reply(Success::UnikernelImage(image()))],
            0,
            "image, compressed false, 7 bytes",
        ),
        (
            Command::Block(BlockCommand::Dump(petrel::wire::Int::new(0))),
            vec![
                reply(Success::BlockDeviceImage(false)),
                dumped(BlockData::Some(Bytes(b"content".to_vec()))),
                dumped(BlockData::End(())),
            ],
            0,
            "block device image, compressed false, 7 bytes",
        ),
        (
            Command::Block(BlockCommand::DumpOld(petrel::wire::Int::new(0))),
            vec![reply(Success::OldBlockDeviceImage(image()))],
            0,
            "block device image, compressed false, 7 bytes",
        ),
        (
            Command::Console(ConsoleCommand::Inactive(())),
            vec![reply(Success::Consoles(Vec::new()))],
            0,
            "no consoles",
        ),
    ];
    for (command, answers, code, shown) in cases {
        let directory = with_tenant("shown");
        issue_command(&directory, command, None);
        let (place, _) = endpoint(&directory, "server", "cacert.pem", |stream| {
            for answer in answers {
                tell(stream, answer);
            }
        });
        let certificate = ["certificate", "web.pem", "web.key", "-d", &place];
        let ended = expect(&directory.path(""), code, &certificate);
        assert!(ended.stdout.contains(shown), "{shown}: {ended:?}");
        for file in downloads(&directory) {
            assert_eq!(fs::read(file).unwrap(), b"content");
        }
    }
}
