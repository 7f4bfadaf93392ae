//! A debugger that connects to vmm-cli's socket and sends fixed packets.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// Limit for an answer. A run with a failure may never answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Connects to a socket as soon as there is one, and sends packets, each after the answer to the one before. If the connection
/// breaks, it connects again and ends the run. Returns when `stop` becomes true.
pub(crate) fn talk(socket: &Path, packets: &[&str], stop: &AtomicBool) {
    let mut packets = packets;
    while !stop.load(Ordering::Relaxed) {
        match UnixStream::connect(socket) {
            Ok(mut stream) => {
                // The run is judged by its end; a connection that breaks says nothing about it.
                let _ = send_all(&mut stream, packets);
                packets = &["k"];
            }
            Err(_) => thread::sleep(Duration::from_millis(2)),
        }
    }
}

fn send_all(stream: &mut UnixStream, packets: &[&str]) -> io::Result<()> {
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    for packet in packets {
        let sum = packet.bytes().fold(0_u8, u8::wrapping_add);
        write!(stream, "+${packet}#{sum:02x}")?;
        let mut answer = Vec::new();
        let mut buffer = [0; 4096];
        while !is_complete(&answer) {
            let count = stream.read(&mut buffer)?;
            if count == 0 {
                return Ok(());
            }
            answer.extend_from_slice(buffer.get(..count).unwrap_or_default());
        }
    }
    Ok(())
}

/// Returns true if bytes end with a packet: `#` and two digits of its checksum.
fn is_complete(bytes: &[u8]) -> bool {
    matches!(bytes, [.., b'#', _, _])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_ends_with_its_checksum() {
        assert!(is_complete(b"+$OK#9a"));
        assert!(!is_complete(b"+$OK#9"));
        assert!(!is_complete(b"+"));
    }
}
