//! A debugger that connects to vmm-cli's socket and sends fixed packets.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::gdb_packet;

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
        stream.write_all(b"+")?;
        stream.write_all(&gdb_packet::packet(packet))?;
        let mut answer = Vec::new();
        let mut buffer = [0; 4096];
        while !gdb_packet::is_complete(&answer) {
            let count = stream.read(&mut buffer)?;
            if count == 0 {
                return Ok(());
            }
            answer.extend_from_slice(buffer.get(..count).unwrap_or_default());
        }
    }
    Ok(())
}
