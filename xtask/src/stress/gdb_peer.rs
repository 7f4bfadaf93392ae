//! Peer of `run --gdb`: asks for the registers and lets the guest run, over and over, until the connection ends.
//!
//! Source: GDB manual, "GDB Remote Serial Protocol".

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Time that the guest runs between two stops.
const RUN_TIME: Duration = Duration::from_millis(10);
/// Interval of attempts to connect.
const CONNECT_INTERVAL: Duration = Duration::from_millis(1);
/// Interval at which a wait for an answer is checked for the end.
const READ_TIMEOUT: Duration = Duration::from_millis(50);
/// Start of the name of the directory that vmm-cli makes for its socket. Its number as a process follows.
pub(super) const DIRECTORY_PREFIX: &str = "vmm-gdb-";
/// Name of the socket.
pub(super) const SOCKET_NAME: &str = "gdb.sock";

/// Thread that connects to vmm-cli.
pub(super) struct GdbPeer {
    thread: JoinHandle<u32>,
    is_over: Arc<AtomicBool>,
}

impl GdbPeer {
    /// Starts the thread. It waits for a socket of the process in `directory`.
    pub(super) fn start(directory: &Path, process: u32) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let (directory, over) = (directory.to_owned(), Arc::clone(&is_over));
        let thread = thread::spawn(move || {
            let mut answers = 0;
            // Ends with an error when vmm-cli does.
            let _ = connect(&directory, process, &over).and_then(|stream| talk(stream, &over, &mut answers));
            answers
        });
        Self { thread, is_over }
    }

    /// Ends the thread. Returns the number of packets that vmm-cli answered.
    pub(super) fn finish(self) -> u32 {
        self.is_over.store(true, Ordering::SeqCst);
        self.thread.join().unwrap_or(0)
    }
}

fn connect(directory: &Path, process: u32, is_over: &AtomicBool) -> io::Result<UnixStream> {
    while !is_over.load(Ordering::SeqCst) {
        if let Some(stream) = socket(directory, process).and_then(|path| UnixStream::connect(path).ok()) {
            stream.set_read_timeout(Some(READ_TIMEOUT))?;
            return Ok(stream);
        }
        thread::sleep(CONNECT_INTERVAL);
    }
    Err(ErrorKind::NotConnected.into())
}

/// Returns the socket of a process.
fn socket(directory: &Path, process: u32) -> Option<PathBuf> {
    let prefix = format!("{DIRECTORY_PREFIX}{process}-");
    let entries = fs::read_dir(directory).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    let is_own =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix));
    entries.filter(is_own).map(|path| path.join(SOCKET_NAME)).next()
}

fn talk(mut stream: UnixStream, is_over: &AtomicBool, answers: &mut u32) -> io::Result<()> {
    const INTERRUPT: &[u8] = b"\x03";
    loop {
        for request in [packet("?"), packet("g"), packet("c")] {
            stream.write_all(&request)?;
            if request == packet("c") {
                thread::sleep(RUN_TIME);
                stream.write_all(INTERRUPT)?;
            }
            read_answer(&mut stream, is_over)?;
            *answers += 1;
        }
    }
}

/// Returns a packet: `$`, the text, `#`, and the sum of its bytes as two hexadecimal digits.
fn packet(text: &str) -> Vec<u8> {
    let sum = text.bytes().fold(0_u8, u8::wrapping_add);
    format!("${text}#{sum:02x}").into_bytes()
}

/// Reads acknowledgements and an answer, and acknowledges it.
fn read_answer(stream: &mut UnixStream, is_over: &AtomicBool) -> io::Result<()> {
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    let is_complete = |answer: &[u8]| answer.iter().rev().nth(2) == Some(&b'#');
    while !is_complete(&answer) {
        match stream.read(&mut buffer) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => answer.extend_from_slice(buffer.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock && !is_over.load(Ordering::SeqCst) => {}
            Err(error) => return Err(error),
        }
    }
    stream.write_all(b"+")
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn packets_have_a_checksum() {
        assert_eq!(packet("?"), b"$?#3f");
        assert_eq!(packet("g"), b"$g#67");
    }

    #[test]
    fn the_peer_asks_until_the_connection_ends() {
        let directory = tempfile::tempdir().unwrap();
        let private = directory.path().join("vmm-gdb-7-0");
        fs::create_dir(&private).unwrap();
        let listener = UnixListener::bind(private.join(SOCKET_NAME)).unwrap();
        let peer = GdbPeer::start(directory.path(), 7);
        let mut stream = listener.accept().unwrap().0;
        for request in [b"$?#3f".as_slice(), b"+$g#67", b"+$c#63\x03"] {
            let mut buffer = vec![0; request.len()];
            stream.read_exact(&mut buffer).unwrap();
            assert_eq!(buffer, request);
            stream.write_all(b"+$S05#b8").unwrap();
        }
        stream.read_exact(&mut [0]).unwrap();
        drop(stream);
        assert_eq!(peer.finish(), 3);
    }
}
