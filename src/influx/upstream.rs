//! Connection to the collector: sends lines as fast as it takes them, and queues them while it cannot be reached.

#[cfg_attr(target_os = "linux", path = "upstream/linux.rs")]
#[cfg_attr(not(target_os = "linux"), path = "upstream/freebsd.rs")]
mod os;

mod destination;
mod exchange;

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::PollFlags;
use nix::sys::socket::{setsockopt, sockopt};

use super::buffer::Buffer;
use super::http::{self, Verdict};
use crate::daemon::Retry;
use crate::sys::connect;
use crate::sys::poll::Poll;

pub use destination::address;
pub(crate) use destination::{Destination, HostAddress};
use exchange::Exchange;

/// Default port of a listener for lines (BEHAVIOUR 2).
pub const PORT: u16 = 8094;

/// Timeout of the collector for accepting a connection.
pub const CONNECT: Duration = Duration::from_secs(10);

/// Timeout of the collector for lines that are sent together: to take them, and over HTTP to answer.
pub const EXCHANGE: Duration = Duration::from_secs(30);

/// Longest wait between two attempts to connect.
pub const LONGEST_RETRY: Duration = Duration::from_secs(30);

/// Collector, and the lines for it.
#[derive(Debug)]
pub(crate) struct Upstream {
    destination: Destination,
    buffer: Buffer,
    state: State,
    retry: Retry,
    /// Number of failures, each of which moves on to the next address of the host.
    failures: usize,
    /// Addresses of the host of a URL.
    place: HostAddress,
    /// Whether the process that looks up names has ended.
    lost: bool,
    /// Whether the failure is in the log already.
    reported: bool,
    /// Lines dropped since the collector was last reached.
    dropped: u64,
}

#[derive(Debug)]
enum State {
    Away,
    Connecting(TcpStream, Instant),
    Connected(Exchange),
}

impl Upstream {
    /// Connection that keeps at most so many lines while the collector cannot be reached.
    pub(crate) fn new(destination: Destination, place: HostAddress, most: usize) -> Self {
        Self {
            place,
            lost: false,
            destination,
            buffer: Buffer::new(most),
            state: State::Away,
            retry: Retry::new(LONGEST_RETRY),
            failures: 0,
            reported: false,
            dropped: 0,
        }
    }

    /// Port of the collector.
    pub(crate) fn port(&self) -> u16 {
        self.destination.port()
    }

    /// Queues a line.
    pub(crate) fn push(&mut self, line: String) {
        self.buffer.push(line);
        let dropped = self.buffer.dropped();
        if dropped > 0 && self.dropped == 0 {
            log::warn!(
                "{}: {} lines wait, and the oldest are dropped",
                self.place(),
                self.buffer.len()
            );
        }
        self.dropped += dropped;
    }

    /// Drops all queued lines, as newer ones replace them.
    pub(crate) fn drop_waiting(&mut self) {
        self.buffer.clear();
        self.dropped += self.buffer.dropped();
    }

    /// Number of queued lines, without those that are being sent.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.buffer.len()
    }

    /// Registers the connection, if there is one, and when [`Self::progress`] is to be called.
    pub(crate) fn register<'a, T>(&'a self, poll: &mut Poll<'a, T>, token: T) {
        match &self.state {
            State::Away => {}
            State::Connecting(stream, _) => poll.add(token, stream.as_fd(), PollFlags::POLLOUT),
            State::Connected(exchange) => {
                let mut flags = PollFlags::POLLIN;
                flags.set(
                    PollFlags::POLLOUT,
                    exchange.written < exchange.request.len(),
                );
                poll.add(token, exchange.stream.as_fd(), flags);
            }
        }
        poll.until(self.deadline());
    }

    /// Whether no connection can be made any more.
    pub(crate) fn is_lost(&self) -> bool {
        self.lost
    }

    /// Time at which [`Self::progress`] is to be called.
    fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Away => (!self.buffer.is_empty()).then(|| self.retry.at()),
            State::Connecting(_, deadline) => Some(*deadline),
            State::Connected(exchange) => exchange.deadline,
        }
    }

    /// Connects, writes and reads as much as is possible without waiting.
    pub(crate) fn progress(&mut self, now: Instant) {
        if let Err(why) = self.step(now) {
            if !self.reported {
                log::warn!("{}: {why}; lines wait for it", self.place());
            }
            self.reported = true;
            self.retry.failed(now);
            self.failures = self.failures.wrapping_add(1);
            if let State::Connected(exchange) = std::mem::replace(&mut self.state, State::Away) {
                let unsent = match self.destination {
                    Destination::Lines(_) => exchange.unsent(),
                    Destination::Server(..) => exchange.lines,
                };
                self.buffer.put_back(unsent);
                self.dropped += self.buffer.dropped();
            }
        }
    }

    fn step(&mut self, now: Instant) -> Result<(), String> {
        match &mut self.state {
            State::Away if self.buffer.is_empty() || now < self.retry.at() => Ok(()),
            State::Away => {
                let address = self.address()?;
                let stream = begin(address).map_err(|error| format!("{address}: {error}"))?;
                self.state = State::Connecting(stream, now + CONNECT);
                Ok(())
            }
            State::Connecting(stream, deadline) => {
                if !connect::is_connected(stream).map_err(|error| error.to_string())? {
                    let late = *deadline <= now;
                    return if late {
                        Err("it does not accept a connection".to_owned())
                    } else {
                        Ok(())
                    };
                }
                if let State::Connecting(stream, _) =
                    std::mem::replace(&mut self.state, State::Away)
                {
                    self.state = State::Connected(Exchange::new(stream));
                }
                self.exchange(now)
            }
            State::Connected(_) => self.exchange(now),
        }
    }

    fn exchange(&mut self, now: Instant) -> Result<(), String> {
        loop {
            let State::Connected(exchange) = &mut self.state else {
                return Ok(());
            };
            if exchange.lines.is_empty() {
                exchange.begin(self.buffer.take(), &self.destination, now);
            }
            let open = exchange.converse().map_err(|error| error.to_string())?;
            let late = exchange.deadline.is_some_and(|deadline| deadline <= now);
            let done = match &self.destination {
                // There is no answer that lines have arrived.
                Destination::Lines(_) if !open => return Err("it closed the connection".to_owned()),
                Destination::Lines(_) => {
                    exchange.answer.clear();
                    !exchange.lines.is_empty() && exchange.written == exchange.request.len()
                }
                Destination::Server(..) => match exchange.answer(open, late)? {
                    None => false,
                    Some(answer) => {
                        match http::judge(answer.status) {
                            Verdict::Stored => {}
                            Verdict::Later => return Err(answer.to_string()),
                            Verdict::Refused => {
                                let count = exchange.lines.len();
                                log::error!("{}: refuses {count} lines: {answer}", self.place());
                            }
                        }
                        self.state = State::Away;
                        self.succeeded();
                        return Ok(());
                    }
                },
            };
            if !done {
                return if late {
                    Err("it is too slow".to_owned())
                } else {
                    Ok(())
                };
            }
            exchange.lines.clear();
            self.succeeded();
            if self.buffer.is_empty() {
                return Ok(());
            }
        }
    }

    fn succeeded(&mut self) {
        self.retry.succeeded();
        if self.reported || self.dropped > 0 {
            log::warn!(
                "{}: takes lines again; {} were dropped meanwhile",
                self.place(),
                self.dropped
            );
        }
        (self.reported, self.dropped) = (false, 0);
    }

    fn place(&self) -> String {
        match &self.destination {
            Destination::Lines(address) => address.to_string(),
            Destination::Server(url, ..) => url.to_string(),
        }
    }

    fn address(&mut self) -> Result<SocketAddr, String> {
        let looked_up;
        let all = match &mut self.place {
            HostAddress::Known(all) => all,
            HostAddress::Named(resolver) => {
                let found = resolver.ask();
                let ended = |error: &io::Error| {
                    matches!(
                        error.kind(),
                        ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe
                    )
                };
                self.lost = found.as_ref().is_err_and(ended);
                looked_up = found.map_err(|error| error.to_string())?;
                &looked_up
            }
        };
        all.get(self.failures % all.len().max(1))
            .copied()
            .ok_or_else(|| "its name has no address".to_owned())
    }
}

/// Begins a connection to the collector.
fn begin(address: SocketAddr) -> nix::Result<TcpStream> {
    let stream = connect::begin_tcp(address)?;
    setsockopt(&stream, sockopt::KeepAlive, &true)?;
    os::limit_silence(&stream, EXCHANGE)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};
    use std::sync::mpsc::{Receiver, channel};
    use std::thread;

    use super::*;
    use crate::influx::http::WriteEndpoint;
    use crate::sys::poll::wait_for;

    /// A listener on this host, and its port.
    fn listener() -> (TcpListener, u16) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        (listener, port)
    }

    /// A connection to a peer of which the other value is the side.
    fn pair() -> (TcpStream, TcpStream) {
        let (listener, port) = listener();
        let ours = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        ours.set_nonblocking(true).unwrap();
        (ours, listener.accept().unwrap().0)
    }

    /// An exporter to a server whose name has an address of IPv6, at which nobody listens, and one of IPv4.
    fn upstream(port: u16) -> Upstream {
        let url = format!("http://two.addresses:{port}").parse().unwrap();
        let destination = Destination::Server(url, WriteEndpoint::Database("d".into()), None);
        let addresses = HostAddress::Known(vec![
            (Ipv6Addr::LOCALHOST, port).into(),
            (Ipv4Addr::LOCALHOST, port).into(),
        ]);
        Upstream::new(destination, addresses, 1000)
    }

    /// Sends all lines there are.
    fn deliver(upstream: &mut Upstream) {
        let end = Instant::now() + EXCHANGE;
        loop {
            upstream.progress(Instant::now());
            if upstream.buffer.is_empty() && matches!(upstream.state, State::Away) {
                return;
            }
            assert!(Instant::now() < end, "{upstream:?}");
            let mut poll = Poll::new();
            upstream.register(&mut poll, ());
            poll.wait().unwrap();
        }
    }

    /// What a server does to each connection, one after the other; it tells of each.
    fn serve(
        listener: TcpListener,
        mut serve: impl FnMut(TcpStream) + Send + 'static,
    ) -> Receiver<()> {
        let (tell, told) = channel();
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                serve(stream);
                if tell.send(()).is_err() {
                    return;
                }
            }
        });
        told
    }

    #[test]
    fn an_address_that_works_is_kept() {
        let (listener, port) = listener();
        let told = serve(listener, |mut stream| {
            let mut request = [0; 1 << 12];
            let _ = stream.read(&mut request);
            let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n");
        });
        let mut upstream = upstream(port);
        for number in 0..6 {
            upstream.push(format!("a b={number}\n"));
            deliver(&mut upstream);
            assert_eq!(upstream.failures, 1, "only the first address fails, once");
        }
        for _ in 0..6 {
            told.recv_timeout(EXCHANGE).unwrap();
        }
    }

    #[test]
    fn what_a_server_refuses_before_it_has_read_it_is_not_sent_again() {
        let (listener, port) = listener();
        // With something unread, the end is a reset.
        let told = serve(listener, |mut stream| {
            let _ = stream.read(&mut [0; 16]);
            let _ = stream.write_all(b"HTTP/1.1 413 Too Large\r\n\r\n");
        });
        let mut upstream = upstream(port);
        for _ in 0..10 {
            upstream.push("x".repeat(20_000));
        }
        deliver(&mut upstream);
        assert_eq!(upstream.failures, 1, "only the first address fails");
        told.recv_timeout(EXCHANGE).unwrap();
        assert!(told.try_recv().is_err());
    }

    #[test]
    fn an_answer_has_its_end_though_the_server_keeps_the_connection_open() {
        let ends = |answer: &str, wait: Duration| {
            let (ours, mut theirs) = pair();
            theirs.write_all(answer.as_bytes()).unwrap();
            wait_for(&ours, PollFlags::POLLIN, None).unwrap();
            let mut upstream = upstream(0);
            let begun = Instant::now();
            let mut exchange = Exchange::new(ours);
            exchange.begin(vec!["a b=1\n".to_owned()], &upstream.destination, begun);
            upstream.state = State::Connected(exchange);
            let ended = upstream.exchange(begun + wait);
            (ended, matches!(upstream.state, State::Away))
        };
        let refused = "HTTP/1.1 400 Bad Request\r\n";
        let long = format!("{refused}Content-Length: 3\r\n\r\nwhy");
        assert_eq!(ends(&long, Duration::ZERO), (Ok(()), true));
        // It does not say how long it is: as long as there is time.
        let endless = format!("{refused}\r\nwhy");
        assert_eq!(ends(&endless, Duration::ZERO), (Ok(()), false));
        assert_eq!(ends(&endless, EXCHANGE), (Ok(()), true));
        let slow = Err("it is too slow".to_owned());
        assert_eq!(ends(refused, EXCHANGE), (slow, false));
    }

    #[test]
    fn an_answer_is_read_though_nothing_more_can_be_written() {
        let (ours, mut theirs) = pair();
        let mut exchange = Exchange::new(ours);
        exchange.request = vec![b'x'; 10];
        assert!(exchange.converse().unwrap());
        theirs.write_all(b"HTTP/1.1 413 Too Large\r\n\r\n").unwrap();
        drop(theirs);
        wait_for(&exchange.stream, PollFlags::empty(), None).unwrap();
        exchange.request = vec![b'x'; 20];
        assert!(!exchange.converse().unwrap());
        assert!(exchange.answer.starts_with(b"HTTP/1.1 413 "));
        // Without an answer it is an error.
        exchange.answer.clear();
        assert!(exchange.converse().is_err());
    }

    #[test]
    fn an_address_has_a_port_or_the_usual_one() {
        for (text, expected) in [
            ("127.0.0.1", "127.0.0.1:8094"),
            ("127.0.0.1:1", "127.0.0.1:1"),
            ("::1", "[::1]:8094"),
            ("[::1]", "[::1]:8094"),
            ("[::1]:1", "[::1]:1"),
        ] {
            assert_eq!(address(text).unwrap().to_string(), expected);
        }
        for wrong in ["host", "127.0.0.1:x", "127.0.0.1:99999", ""] {
            assert!(address(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_line_that_was_not_written_whole_is_sent_again() {
        let (stream, _peer) = pair();
        let exchange = |written| Exchange {
            lines: ["ab\n", "cd\n", "ef\n"].map(str::to_owned).into(),
            written,
            ..Exchange::new(stream.try_clone().unwrap())
        };
        assert_eq!(exchange(0).unsent().len(), 3);
        assert_eq!(exchange(2).unsent().len(), 3);
        assert_eq!(exchange(3).unsent(), ["cd\n", "ef\n"]);
        assert_eq!(exchange(8).unsent(), ["ef\n"]);
        assert!(exchange(9).unsent().is_empty());
    }
}
