//! Requests to a server of InfluxDB, and its answers: HTTP/1.1, one request a connection.

use std::fmt::{self, Write as _};
use std::str::FromStr;

/// Maximum number of bytes of an answer that are read.
pub const MAX_ANSWER: usize = 1 << 16;

/// Maximum number of characters of an answer that are logged.
const SHOWN: usize = 300;

/// URL of a server: `http://HOST[:PORT][/PATH]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// Name or address, without brackets.
    pub host: String,
    /// Port of the server.
    pub port: u16,
    /// Prefix of the paths of the interface: empty, or a `/` and more.
    prefix: String,
    /// Host and port, as they were typed.
    authority: String,
}

/// Destination of lines in the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteEndpoint {
    /// Database of version 1.
    Database(String),
    /// Bucket of an organisation of version 2.
    Bucket {
        /// Organisation.
        org: String,
        /// Bucket.
        bucket: String,
    },
}

/// Answer of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Reason and body, in one line.
    pub text: String,
}

/// Consequence of an answer for the lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The lines are stored.
    Stored,
    /// The lines will never be stored.
    Refused,
    /// The lines may be stored later.
    Later,
}

impl FromStr for Url {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with("https:") {
            return Err(format!(
                "'{text}': TLS is not spoken here: give the http address of a proxy on this host that speaks it"
            ));
        }
        let refused = || format!("'{text}' is no http://HOST[:PORT][/PATH]");
        let rest = text.strip_prefix("http://").ok_or_else(refused)?;
        let plain = |byte: u8| byte.is_ascii_graphic() && !b"?#@\\\"<>".contains(&byte);
        if !rest.bytes().all(plain) {
            return Err(refused());
        }
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => rest.split_once(']').ok_or_else(refused)?,
            None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
        };
        let port = match port.strip_prefix(':') {
            Some(port) => port.parse().map_err(|_| refused())?,
            None if port.is_empty() => 80,
            None => return Err(refused()),
        };
        if host.is_empty() {
            return Err(refused());
        }
        let path = path.trim_end_matches('/');
        Ok(Self {
            host: host.to_owned(),
            port,
            prefix: if path.is_empty() {
                String::new()
            } else {
                format!("/{path}")
            },
            authority: authority.to_owned(),
        })
    }
}

/// Request that stores `lines`, whose times are in nanoseconds.
pub fn request(url: &Url, place: &WriteEndpoint, token: Option<&str>, lines: &[String]) -> Vec<u8> {
    let target = match place {
        WriteEndpoint::Database(database) => format!("/write?db={}", percent(database)),
        WriteEndpoint::Bucket { org, bucket } => format!(
            "/api/v2/write?org={}&bucket={}",
            percent(org),
            percent(bucket)
        ),
    };
    let token = token.map_or_else(String::new, |token| {
        format!("Authorization: Token {token}\r\n")
    });
    let length: usize = lines.iter().map(String::len).sum();
    let mut request = format!(
        "POST {}{target}&precision=ns HTTP/1.1\r\nHost: {}\r\n{token}Content-Type: text/plain; charset=utf-8\r\n\
         Content-Length: {length}\r\nConnection: close\r\n\r\n",
        url.prefix, url.authority
    );
    request.extend(lines.iter().map(String::as_str));
    request.into_bytes()
}

/// Parses an answer, once enough of it has arrived: the head of a success, of others also the body, as long as it says or
/// as far as it comes. `ended`: no more input will come.
pub fn answer(bytes: &[u8], ended: bool) -> Result<Option<Answer>, &'static str> {
    const END: &[u8] = b"\r\n\r\n";

    let Some(end) = bytes.windows(END.len()).position(|window| window == END) else {
        return match (ended, bytes.len() >= MAX_ANSWER) {
            (true, _) => Err("it ended the connection before it had answered"),
            (_, true) => Err("its answer has no end"),
            _ => Ok(None),
        };
    };
    let head = String::from_utf8_lossy(&bytes[..end]);
    let body = &bytes[end + END.len()..];
    let mut lines = head.lines();
    let mut words = lines.next().unwrap_or_default().splitn(3, ' ');
    let version = words.next().unwrap_or_default();
    let status: Option<u16> = words.next().and_then(|status| status.parse().ok());
    let (true, Some(status)) = (version.starts_with("HTTP/1."), status) else {
        return Err("it answers with something else than HTTP/1");
    };
    let whole =
        ended || bytes.len() >= MAX_ANSWER || length(lines).is_some_and(|it| it <= body.len());
    if judge(status) != Verdict::Stored && !whole {
        return Ok(None);
    }
    let body = String::from_utf8_lossy(body);
    let said = format!("{} {body}", words.next().unwrap_or_default());
    let text = said.chars().map(|c| if c.is_control() { ' ' } else { c });
    let text: String = text.take(SHOWN).collect();
    Ok(Some(Answer {
        status,
        text: text.trim().to_owned(),
    }))
}

/// Length of the body after a head with these fields, if they have it (RFC 9110, 8.6).
fn length<'a>(fields: impl Iterator<Item = &'a str>) -> Option<usize> {
    let mut fields = fields.filter_map(|field| field.split_once(':'));
    let (_, length) = fields.find(|(name, _)| name.eq_ignore_ascii_case("Content-Length"))?;
    length.trim().parse().ok()
}

/// Verdict of a status code on the lines that were sent.
pub fn judge(status: u16) -> Verdict {
    match status {
        200..=299 => Verdict::Stored,
        // Malformed, of another type than before, too old, too much.
        400 | 413 | 422 => Verdict::Refused,
        _ => Verdict::Later,
    }
}

/// Percent-encodes a value of a query.
fn percent(text: &str) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
        encoded
    })
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.authority, self.prefix)
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.status, self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_a_host_perhaps_a_port_and_a_path() {
        for (text, host, port, prefix) in [
            ("http://influx", "influx", 80, ""),
            ("http://influx:8086/", "influx", 8086, ""),
            ("http://127.0.0.1:8086/a/b/", "127.0.0.1", 8086, "/a/b"),
            ("http://[::1]:8086", "::1", 8086, ""),
            ("http://[::1]/x", "::1", 80, "/x"),
        ] {
            let url: Url = text.parse().unwrap();
            assert_eq!(
                (&url.host[..], url.port, &url.prefix[..]),
                (host, port, prefix)
            );
        }
        for wrong in [
            "influx:8086",
            "http://",
            "http://:80",
            "http://a:b",
            "http://a:99999",
            "http://[::1",
            "http://[::1]80",
            "http://user@host",
            "http://host/?db=x",
            "http://a b",
            "http://a\r\nX: y",
        ] {
            assert!(wrong.parse::<Url>().is_err(), "{wrong}");
        }
        let why = "https://influx".parse::<Url>().unwrap_err();
        assert!(why.contains("a proxy on this host"), "{why}");
    }

    #[test]
    fn requests_are_of_the_version_that_the_place_is_of() {
        let url: Url = "http://h:1/p".parse().unwrap();
        let lines = ["a\n".to_owned(), "bc\n".to_owned()];
        let first = request(&url, &WriteEndpoint::Database("my db".into()), None, &lines);
        assert_eq!(
            String::from_utf8(first).unwrap(),
            "POST /p/write?db=my%20db&precision=ns HTTP/1.1\r\nHost: h:1\r\n\
             Content-Type: text/plain; charset=utf-8\r\nContent-Length: 5\r\nConnection: close\r\n\r\na\nbc\n"
        );
        let place = WriteEndpoint::Bucket {
            org: "o&".into(),
            bucket: "b".into(),
        };
        let second = String::from_utf8(request(&url, &place, Some("t"), &lines)).unwrap();
        assert!(second.starts_with("POST /p/api/v2/write?org=o%26&bucket=b&precision=ns "));
        assert!(second.contains("\r\nAuthorization: Token t\r\n"));
    }

    #[test]
    fn answers_are_read_as_far_as_they_matter() {
        let good = b"HTTP/1.1 204 No Content\r\nX: y\r\n\r\n";
        assert_eq!(answer(good, false).unwrap().unwrap().status, 204);
        assert_eq!(answer(&good[..20], false), Ok(None));
        assert!(answer(&good[..20], true).is_err());
        let bad = b"HTTP/1.1 400 Bad Request\r\n\r\n{\"error\":\"no\n\x1b[2J\"}";
        assert_eq!(answer(bad, false), Ok(None));
        let told = answer(bad, true).unwrap().unwrap();
        assert_eq!(told.to_string(), "400 Bad Request {\"error\":\"no  [2J\"}");
        // One that says how long it is ends there, though the connection does not.
        let long = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 3\r\nX: y\r\n\r\n\xffwhy";
        let end = long.len() - 1;
        assert_eq!(answer(&long[..end - 1], false), Ok(None));
        let told = answer(&long[..end], false).unwrap().unwrap();
        assert_eq!(told.to_string(), "400 Bad Request \u{fffd}wh");
        for wrong in [
            &b"SSH-2.0-x\r\n\r\n"[..],
            b"HTTP/1.1 abc\r\n\r\n",
            b"\r\n\r\n",
        ] {
            assert!(answer(wrong, true).is_err());
        }
        assert!(answer(&vec![b'x'; MAX_ANSWER], false).is_err());
    }

    #[test]
    fn only_what_will_never_be_stored_is_given_up() {
        for (status, verdict) in [
            (200, Verdict::Stored),
            (204, Verdict::Stored),
            (301, Verdict::Later),
            (400, Verdict::Refused),
            (401, Verdict::Later),
            (404, Verdict::Later),
            (429, Verdict::Later),
            (500, Verdict::Later),
        ] {
            assert_eq!(judge(status), verdict);
        }
    }
}
