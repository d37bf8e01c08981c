//! What libzmq says, byte for byte, in every handshake and both roles: captured once, taken in and answered by our machine
//! again and again.
//!
//! `WEFT_CAPTURE=1 cargo test -p spot --test transcripts -- --include-ignored` writes them anew. Our own side draws no
//! randomness (the entropy is a parameter), so whatever libzmq said, our answers must be those that it was given.

#[path = "interop/python.rs"]
mod python;

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    sync::Arc,
};

use bytes::BytesMut;
use python::{PATIENCE, Python, hex, unhex};
use serde_json::{Value, json};
use spot::cluster::{
    Credentials, CurveKeys, CurvePublic, CurveSecret, Security,
    command::Command,
    zmtp::{DecoderLimits, Established, Handshake, HandshakeOptions, Properties, SocketType},
};

const ALL: [(&str, &str); 6] = [
    ("NULL", "client"),
    ("NULL", "server"),
    ("PLAIN", "client"),
    ("PLAIN", "server"),
    ("CURVE", "client"),
    ("CURVE", "server"),
];

/// The key pair of libzmq's own tests, for libzmq's side.
const THEIR_PUBLIC: &str = "Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID";
const THEIR_SECRET: &str = "D:)Q[IlAW!ahhC2ac:9*A}h:p?([4%wOTJ%JR%cs";

fn our_keys() -> CurveKeys {
    CurveKeys::from_secret([3; 32])
}

/// Our side, against a libzmq in the other role.
fn our_machine(mechanism: &str, libzmq: &str) -> Handshake {
    let known = CurvePublic::from_z85(THEIR_PUBLIC).unwrap();
    assert_eq!(CurveKeys::from_secret(CurveSecret::from_z85(THEIR_SECRET).unwrap().0).public, known);
    let check = Arc::new(move |credentials: Credentials<'_>| match credentials {
        Credentials::Plain { username: "ann", password: "secret" } => Ok("ann".to_owned()),
        Credentials::Curve(key) if key == known => Ok("ann".to_owned()),
        _ => Err("unknown".to_owned()),
    });
    let security = match (mechanism, libzmq) {
        ("PLAIN", "client") => Security::PlainServer(check),
        ("PLAIN", _) => Security::PlainClient { username: "ann".into(), password: "secret".into() },
        ("CURVE", "client") => Security::CurveServer { keys: our_keys(), authenticate: check },
        ("CURVE", _) => Security::CurveClient { keys: our_keys(), server: known },
        _ => Security::Null,
    };
    let socket_type = if libzmq == "client" { SocketType::Router } else { SocketType::Dealer };
    let (properties, limits) = (Properties::default(), DecoderLimits::STANDARD);
    let mut entropy = [0; 96];
    entropy.iter_mut().enumerate().for_each(|(i, byte)| *byte = i as u8);
    Handshake::new(HandshakeOptions { socket_type, security, properties, limits }, &entropy)
}

/// What libzmq is set up with.
fn their_options(mechanism: &str, libzmq: &str) -> Value {
    match (mechanism, libzmq) {
        ("PLAIN", "client") => json!({"PLAIN_USERNAME": "ann", "PLAIN_PASSWORD": "secret"}),
        ("PLAIN", _) => json!({"PLAIN_SERVER": 1}),
        ("CURVE", role) => {
            let mut options = json!({"CURVE_PUBLICKEY": THEIR_PUBLIC, "CURVE_SECRETKEY": THEIR_SECRET});
            match role {
                "client" => options["CURVE_SERVERKEY"] = our_keys().public.to_z85().into(),
                _ => options["CURVE_SERVER"] = 1.into(),
            }
            options
        }
        _ => json!({}),
    }
}

fn file(mechanism: &str, libzmq: &str) -> PathBuf {
    let name = format!("libzmq-{}-{libzmq}.txt", mechanism.to_lowercase());
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/transcripts")).join(name)
}

/// Turns of a conversation: who speaks, and what.
type Transcript = Vec<(bool, Vec<u8>)>;

fn write(transcript: &Transcript, version: &str) -> String {
    let mut text =
        format!("# A connection with libzmq {version}, as hexadecimal: `<` what it sent, `>` what we did.\n");
    for (ours, bytes) in transcript {
        text.push_str(if *ours { "> " } else { "< " });
        text.push_str(&hex(bytes));
        text.push('\n');
    }
    text
}

fn read(text: &str) -> Transcript {
    let turns = text.lines().filter(|line| !line.starts_with('#'));
    turns.map(|line| (line.starts_with('>'), unhex(&line[2..]))).collect()
}

/// After the handshake each side asks for topics.
fn our_query(established: &mut Established) -> Vec<u8> {
    let mut query = BytesMut::new();
    Command::Query.put(&mut query, false);
    established.encoder.encode(query.freeze()).to_vec()
}

fn is_query(established: &mut Established, buffer: &mut BytesMut) -> bool {
    let batch = established.decoder.decode(buffer).unwrap();
    let mut messages = batch.messages();
    let Some(frames) = messages.next() else { return false };
    assert_eq!(Command::decode(&batch, frames), Ok((false, Command::Query)));
    true
}

/// Replays a transcript: our machine takes in what libzmq sent and must answer as it did.
fn replay(mechanism: &str, libzmq: &str, transcript: &Transcript) {
    let mut machine = our_machine(mechanism, libzmq);
    let mut established: Option<Established> = None;
    let (mut said, mut buffer, mut asked) = (Vec::new(), BytesMut::new(), false);
    let mut expected = Vec::new();
    for (ours, bytes) in transcript {
        if *ours {
            expected.extend_from_slice(bytes);
            continue;
        }
        // However it is cut.
        for byte in bytes {
            buffer.extend_from_slice(&[*byte]);
            if established.is_none() {
                established = machine.handle_input(&mut buffer).unwrap();
                while let Some(output) = machine.poll_output() {
                    said.extend_from_slice(&output);
                }
                if let Some(established) = &mut established {
                    said.extend(our_query(established));
                }
            }
            if let Some(established) = &mut established {
                asked |= is_query(established, &mut buffer);
            }
        }
    }
    let established = established.expect("the handshake ends");
    assert!(asked, "libzmq's QUERY did not come");
    assert_eq!(hex(&said), hex(&expected), "{mechanism}, libzmq as {libzmq}");
    let theirs = if libzmq == "client" { "DEALER" } else { "ROUTER" };
    assert_eq!(established.properties.get("Socket-Type").unwrap(), theirs);
    let principal = match (libzmq, mechanism) {
        ("client", "PLAIN" | "CURVE") => "ann",
        // The server's key, which is all that a client knows of it.
        (_, "CURVE") => "Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID",
        _ => "",
    };
    assert_eq!((established.principal.as_str(), established.version), (principal, (3, 1)));
}

#[test]
fn our_machine_answers_libzmq_as_it_did_when_it_was_captured() {
    for (mechanism, libzmq) in ALL {
        let path = file(mechanism, libzmq);
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        replay(mechanism, libzmq, &read(&text));
    }
}

/// Talks to libzmq through a plain socket, and writes down every byte.
fn capture(mechanism: &str, libzmq: &str) -> (Transcript, String) {
    let mut python = Python::start();
    python.call("authenticate", json!({"users": {"ann": "secret"}}));
    let version = python.call("version", json!({})).as_str().unwrap().to_owned();
    let options = their_options(mechanism, libzmq);
    let mut stream = if libzmq == "client" {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = format!("tcp://{}", listener.local_addr().unwrap());
        python.open("peer", "DEALER", ("connect", &at), &options);
        python.send("peer", &[vec![4]]);
        listener.accept().unwrap().0
    } else {
        let at = python.open("peer", "ROUTER", ("bind", "tcp://127.0.0.1:*"), &options);
        TcpStream::connect(at.strip_prefix("tcp://").unwrap()).unwrap()
    };
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut machine = our_machine(mechanism, libzmq);
    let mut established: Option<Established> = None;
    let (mut transcript, mut buffer, mut asked) = (Transcript::new(), BytesMut::new(), false);
    let say = |bytes: &[u8], transcript: &mut Transcript, stream: &mut TcpStream| {
        stream.write_all(bytes).unwrap();
        match transcript.last_mut() {
            Some((true, said)) => said.extend_from_slice(bytes),
            _ => transcript.push((true, bytes.to_vec())),
        }
    };
    loop {
        if established.is_none() {
            established = machine.handle_input(&mut buffer).unwrap();
            while let Some(output) = machine.poll_output() {
                say(&output, &mut transcript, &mut stream);
            }
            if let Some(established) = &mut established {
                say(&our_query(established), &mut transcript, &mut stream);
                // What came is what we asked; a ROUTER has to be asked before it can ask.
                let mut asked = python.receive("peer");
                assert_eq!(asked.pop().unwrap(), [4]);
                if let Some(routing_id) = asked.pop() {
                    python.send("peer", &[routing_id, vec![4]]);
                }
            }
        }
        if let Some(established) = &mut established {
            asked |= is_query(established, &mut buffer);
        }
        if asked {
            return (transcript, version);
        }
        let mut chunk = [0; 4096];
        let n = stream.read(&mut chunk).unwrap();
        assert!(n > 0, "closed by libzmq");
        buffer.extend_from_slice(&chunk[..n]);
        match transcript.last_mut() {
            Some((false, heard)) => heard.extend_from_slice(&chunk[..n]),
            _ => transcript.push((false, chunk[..n].to_vec())),
        }
    }
}

/// All bytes of one side.
fn side(transcript: &Transcript, ours: bool) -> Vec<u8> {
    transcript.iter().filter(|turn| turn.0 == ours).flat_map(|turn| turn.1.clone()).collect()
}

#[test]
#[ignore = "needs pyzmq"]
fn libzmq_still_says_what_was_captured() {
    for (mechanism, libzmq) in ALL {
        let (transcript, version) = capture(mechanism, libzmq);
        replay(mechanism, libzmq, &transcript);
        let path = file(mechanism, libzmq);
        if std::env::var_os("WEFT_CAPTURE").is_some() {
            fs::write(&path, write(&transcript, &version)).unwrap();
        }
        let captured = read(&fs::read_to_string(&path).unwrap());
        let (now, then) = (side(&transcript, false), side(&captured, false));
        match mechanism {
            // Its keys of the day differ each time: lengths and names are all that can be compared.
            "CURVE" => {
                assert_eq!((now.len(), &now[..64]), (then.len(), &then[..64]), "libzmq as {libzmq}");
            }
            _ => assert_eq!(hex(&now), hex(&then), "{mechanism}, libzmq as {libzmq}"),
        }
    }
}
