//! The silent path: what source and receivers tell each other before and after a run, over one TCP connection each.
//!
//! A frame is a line of JSON; behind the last one of a receiver stand its arrivals, eight bytes each.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use socket2::{SockRef, TcpKeepalive};

use crate::runtime::Clock;
use crate::time::Timestamp;

use super::usage::Usage;

/// Longest line: a name and some numbers.
const LINE_BYTES_MAX: u64 = 64 << 10;
/// How long the other side may stay silent, outside a run.
pub(super) const SILENCE: Duration = Duration::from_secs(20);
/// During a run nothing is said, for however long it takes; the systems of both sides ask each other instead, and no program
/// is woken. After so long without a word, so often, so many times without an answer: then the other machine is gone, after
/// as long as it may be silent outside a run. A cable that is pulled and put back within that costs nothing.
const PROBE_AFTER: Duration = Duration::from_secs(5);
const PROBE_EVERY: Duration = Duration::from_secs(3);
const PROBES: u32 = 5;
/// Exchanges of clocks; the quickest counts.
const EXCHANGES: usize = 64;
/// Arrivals written at a time.
const CHUNK: usize = 8 << 10;

/// An arrival that never was.
pub(super) const NEVER: u64 = u64::MAX;

/// What a receiver says first.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Hello {
    pub(super) run: u32,
    pub(super) name: String,
    pub(super) version: String,
    /// Whose clock it reads.
    pub(super) clock: ClockId,
    pub(super) receive_buffer_bytes: usize,
    /// Loops that the receivers of its process are spread over.
    pub(super) threads: usize,
}

/// A clock that several processes may read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ClockId {
    /// Which start of which machine, where the system tells it.
    pub(super) boot: Option<String>,
    /// What the machine's monotonic clock showed when this process's clock was zero, nanoseconds.
    pub(super) zero_ns: Option<u64>,
}

/// What a source answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Welcome {
    /// It takes part.
    In {
        messages: u64,
        size: usize,
        /// What messages are filled with.
        filling: u32,
    },
    /// It does not: the source has as many as it wants. Another one may want it.
    Full,
    /// It does not, and why.
    Out(String),
}

/// From the source, after the clocks: the run is over, or one more exchange.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Ask {
    /// Which time is it?
    Time,
    /// Clocks are compared: be ready.
    Ready,
    /// So many messages were sent, the last some time ago: hand over what came.
    Over { sent: u64 },
}

/// What a receiver answers to [`Ask::Time`] and [`Ask::Ready`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Told {
    pub(super) now_ns: u64,
}

/// What a receiver hands over; its arrivals follow.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Handed {
    /// Arrivals that follow: as many as messages were announced.
    pub(super) arrivals: u64,
    pub(super) duplicates: u64,
    pub(super) out_of_order: u64,
    pub(super) altered: u64,
    /// Of a receiver that stopped and started again: the message that it would have had next, and the first it had then.
    pub(super) away: Option<(u64, u64)>,
    pub(super) usage: Usage,
    pub(super) stats: ReceiverStats,
}

/// What a receiver's engine counted.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ReceiverStats {
    /// Datagrams taken in.
    pub datagrams_received: u64,
    /// NACKs and requests for parity sent.
    pub nacks_sent: u64,
    /// Segments that came only after they had been asked for.
    pub segments_repaired: u64,
    /// Segments that never came.
    pub segments_lost: u64,
}

/// One end of the connection.
pub(super) struct Control {
    reader: BufReader<TcpStream>,
    writer: TcpStream,
}

impl Control {
    pub(super) fn connect(to: SocketAddr) -> io::Result<Self> {
        Self::new(TcpStream::connect_timeout(&to, SILENCE)?)
    }

    pub(super) fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SILENCE))?;
        stream.set_write_timeout(Some(SILENCE))?;
        let probing = TcpKeepalive::new()
            .with_time(PROBE_AFTER)
            .with_interval(PROBE_EVERY)
            .with_retries(PROBES);
        let socket = SockRef::from(&stream);
        socket.set_tcp_keepalive(&probing)?;
        // As long as a word is on its way nothing is asked: without this bound it would be sent again for minutes.
        #[cfg(target_os = "linux")]
        socket.set_tcp_user_timeout(Some(SILENCE))?;
        Ok(Self {
            writer: stream.try_clone()?,
            reader: BufReader::with_capacity(CHUNK * 8, stream),
        })
    }

    /// How long the other side may stay silent from now on.
    pub(super) fn set_silence(&self, silence: Option<Duration>) -> io::Result<()> {
        self.writer.set_read_timeout(silence)
    }

    /// Whether the other side has hung up. Only while it has nothing to say.
    pub(super) fn has_ended(&self) -> bool {
        let looked = self
            .writer
            .set_nonblocking(true)
            .and_then(|()| self.writer.peek(&mut [0]));
        let is_blocking = self.writer.set_nonblocking(false).is_ok();
        match looked {
            Ok(bytes) => bytes == 0 || !is_blocking,
            Err(error) => error.kind() != io::ErrorKind::WouldBlock || !is_blocking,
        }
    }

    pub(super) fn put(&mut self, value: &impl Serialize) -> io::Result<()> {
        let mut line = serde_json::to_vec(value)?;
        line.push(b'\n');
        self.writer.write_all(&line)
    }

    pub(super) fn take<T: DeserializeOwned>(&mut self) -> io::Result<T> {
        let mut line = Vec::new();
        (&mut self.reader)
            .take(LINE_BYTES_MAX)
            .read_until(b'\n', &mut line)?;
        if line.last() != Some(&b'\n') {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(serde_json::from_slice(&line)?)
    }

    pub(super) fn put_arrivals(&mut self, arrivals: &[u64]) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(CHUNK * 8);
        for chunk in arrivals.chunks(CHUNK) {
            bytes.clear();
            bytes.extend(chunk.iter().flat_map(|arrival| arrival.to_le_bytes()));
            self.writer.write_all(&bytes)?;
        }
        Ok(())
    }

    pub(super) fn take_arrivals(&mut self, count: u64) -> io::Result<Vec<u64>> {
        let mut arrivals = Vec::new();
        let mut bytes = [0; 8];
        for _ in 0..count.min(super::MESSAGES_MAX) {
            self.reader.read_exact(&mut bytes)?;
            arrivals.push(u64::from_le_bytes(bytes));
        }
        Ok(arrivals)
    }

    /// How far the other's clock is ahead of ours, and how wrong that can be: nothing where both read the same clock; else
    /// half of the quickest exchange's round trip, whichever way was the slow one (Cristian, 1989).
    pub(super) fn compare_clocks(
        &mut self,
        clock: Clock,
        ours: &ClockId,
        theirs: &ClockId,
    ) -> io::Result<Offset> {
        if let (Some(our_zero), Some(their_zero)) = (ours.zero_ns, theirs.zero_ns)
            && ours.boot.is_some()
            && ours.boot == theirs.boot
        {
            let ahead = i128::from(our_zero) - i128::from(their_zero);
            return Ok(Offset {
                ahead_ns: i64::try_from(ahead).unwrap_or(0),
                bound_ns: SAME_CLOCK_NS,
            });
        }
        let mut best = Offset {
            ahead_ns: 0,
            bound_ns: u64::MAX,
        };
        for _ in 0..EXCHANGES {
            let asked = clock.now();
            self.put(&Ask::Time)?;
            let told: Told = self.take()?;
            let answered = clock.now();
            let half_ns = answered.nanos_since(asked).div_ceil(2);
            if half_ns < best.bound_ns {
                let middle = i128::from(asked.as_nanos()) + i128::from(half_ns);
                let ahead = i128::from(told.now_ns) - middle;
                best = Offset {
                    ahead_ns: i64::try_from(ahead).unwrap_or(0),
                    bound_ns: half_ns,
                };
            }
        }
        Ok(best)
    }
}

/// How exactly a process knows when its clock was zero: two readings, one after the other.
const SAME_CLOCK_NS: u64 = 1_000;

/// Another clock against ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Offset {
    pub(super) ahead_ns: i64,
    pub(super) bound_ns: u64,
}

impl Offset {
    /// The other clock's reading on ours.
    pub(super) fn to_ours(self, theirs_ns: u64) -> u64 {
        theirs_ns.saturating_add_signed(self.ahead_ns.saturating_neg())
    }
}

impl ClockId {
    pub(super) fn of(clock: Clock) -> Self {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok();
        Self {
            boot: boot.map(|id| id.trim().to_owned()),
            zero_ns: clock.zero_on_machine(),
        }
    }
}

/// Why the other side is heard no more.
pub(super) fn why_silent(error: &io::Error) -> String {
    use io::ErrorKind as Kind;
    match error.kind() {
        Kind::UnexpectedEof | Kind::ConnectionReset | Kind::BrokenPipe => {
            "it has ended before the run was over".to_owned()
        }
        Kind::WouldBlock | Kind::TimedOut | Kind::HostUnreachable | Kind::NetworkUnreachable => {
            format!("it no longer answers ({error}); its machine, or the way to it, is gone")
        }
        _ => error.to_string(),
    }
}

/// Serves a receiver's end until the run is over: answers the source's questions.
pub(super) fn answer_until_over(control: &mut Control, clock: Clock) -> io::Result<u64> {
    loop {
        match control.take()? {
            Ask::Time => control.put(&told(clock.now()))?,
            Ask::Ready => {
                control.put(&told(clock.now()))?;
                // From here on it is silent for as long as the run takes.
                control.set_silence(None)?;
            }
            Ask::Over { sent } => return Ok(sent),
        }
    }
}

fn told(now: Timestamp) -> Told {
    Told {
        now_ns: now.as_nanos(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// Goal: a machine that is gone is noticed in a run without end too. Method: both ends' sockets are asked what they do in
    /// a silence; that the system does it, no test waits for.
    #[test]
    fn both_ends_ask_whether_the_other_machine_is_there() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let ours = Control::connect(listener.local_addr().unwrap()).unwrap();
        let theirs = Control::new(listener.accept().unwrap().0).unwrap();
        for end in [&ours, &theirs] {
            end.set_silence(None).unwrap();
            let socket = SockRef::from(&end.writer);
            assert!(socket.keepalive().unwrap());
            #[cfg(target_os = "linux")]
            {
                let after = socket.tcp_keepalive_time().unwrap();
                let every = socket.tcp_keepalive_interval().unwrap();
                let gone_after = after + every * socket.tcp_keepalive_retries().unwrap();
                assert_eq!(gone_after, SILENCE);
                assert_eq!(socket.tcp_user_timeout().unwrap(), Some(SILENCE));
            }
        }
        assert!(!ours.has_ended());
        drop(theirs);
        let mut ours = ours;
        let error = ours.take::<Told>().unwrap_err();
        assert!(why_silent(&error).contains("has ended"), "{error}");
        assert!(ours.has_ended());
    }
}
