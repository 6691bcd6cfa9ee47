//! Messages of a relay: the request to the daemon, and a failure to the client.

use crate::chain::Request;
use crate::name::Name;
use crate::wire::frame;
use crate::wire::{Command, Header, Int, Int64, Message, Payload, PolicyCommand, VERSION};

/// Frame with a failure for the client (WIRE 11.6).
pub fn failure(name: &Name, text: &str) -> Vec<u8> {
    let header = Header {
        version: Int::new(VERSION),
        sequence: Int64(0),
        name: name.to_string().into(),
    };
    let message = Message::answer(header, Payload::Failure(text.into()));
    // A failure with a short text has an encoding, and its frame a length.
    message
        .encode()
        .ok()
        .and_then(|content| frame::frame(&content).ok())
        .unwrap_or_default()
}

/// Encodes the policies of the chain in one message, if they are sent, and the command, to be written together: the daemon does
/// not look at the command if it refuses the policies. The command's sequence number is 0, so that the answer fits the
/// client as it is (WIRE 11.6).
pub(super) fn encode(request: &Request, sends_chain: bool) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut add = |message: &Message| {
        let content = message.encode().map_err(|error| error.to_string())?;
        let framed = frame::frame(&content).map_err(|error| error.to_string())?;
        bytes.extend(framed);
        Ok::<_, String>(())
    };
    if sends_chain {
        let policies = request.policies.iter().map(|(_, policy)| policy.clone());
        let command = Command::Policy(PolicyCommand::SetChain(policies.collect()));
        let path = request.name.path().clone();
        add(&Message::command(1, &path.into(), command))?;
    }
    add(&Message::command(0, &request.name, request.command.clone()))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::DatedPolicy;
    use crate::wire::frame::MAX_MESSAGE;

    #[test]
    fn the_command_comes_last_with_sequence_0() {
        let policy = crate::wire::Policy {
            cpuids: vec![Int::new(0)],
            unikernels: Int::new(1),
            memory: Int::new(32),
            block: None,
            bridges: Vec::new(),
        };
        let dated = DatedPolicy {
            policy,
            not_before: Int::new(1),
        };
        let request = Request {
            name: "foo:bar".parse().unwrap(),
            policies: vec![("foo".parse().unwrap(), dated)],
            command: Command::Unikernel(crate::wire::UnikernelCommand::Info(())),
            image: None,
        };
        let bytes = encode(&request, true).unwrap();
        let mut reader = &bytes[..];
        let mut next = || {
            let content = frame::read_frame(&mut reader, MAX_MESSAGE)
                .unwrap()
                .unwrap();
            Message::decode(&content).unwrap().header
        };
        assert_eq!(next().name, "foo:".into());
        let last = next();
        assert_eq!((last.name, last.sequence), ("foo:bar".into(), Int64(0)));
        assert!(reader.is_empty());
    }
}
