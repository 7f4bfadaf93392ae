//! Listens for gdb on a TCP port or a Unix socket.
//!
//! A socket file is removed at the end of the run. An existing file is not replaced. Anyone who can connect controls
//! the guest, so a TCP port is bound to the loopback address unless the user names another.

use std::fmt;
use std::io::{self, Read};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use vmm_core::kvm_sys_wrap::termination_requested;

/// Interval at which a wait checks for termination requests, in nanoseconds.
const POLL_INTERVAL_NS: i64 = 200_000_000;

/// Listening socket.
pub(super) struct Listener {
    kind: ListenerKind,
    /// Address in the form that gdb takes.
    name: String,
}

enum ListenerKind {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

impl Listener {
    /// Opens a socket. `text` is a path, which contains a slash, or `host:port`, `:port` or `port`.
    pub(super) fn open(text: &str) -> io::Result<Self> {
        if text.contains('/') {
            let path = PathBuf::from(text);
            let listener = UnixListener::bind(&path)?;
            return Ok(Self { kind: ListenerKind::Unix(listener, path), name: text.to_owned() });
        }
        let address = match text.rsplit_once(':') {
            None => format!("127.0.0.1:{text}"),
            Some(("", port)) => format!("127.0.0.1:{port}"),
            Some(_) => text.to_owned(),
        };
        let listener = TcpListener::bind(&address)?;
        // With port 0 the kernel chooses the port.
        let name = listener.local_addr()?.to_string();
        Ok(Self { kind: ListenerKind::Tcp(listener), name })
    }

    /// Returns the directory of the socket, which is removed at the end; `None` for a TCP port.
    pub(super) fn directory(&self) -> Option<&Path> {
        match &self.kind {
            ListenerKind::Tcp(_) => None,
            ListenerKind::Unix(_, path) => path.parent(),
        }
    }

    /// Waits for a connection. Returns `None` if termination was requested.
    pub(super) fn accept(&self) -> io::Result<Option<GdbStream>> {
        loop {
            if termination_requested() {
                return Ok(None);
            }
            let mut ready = match &self.kind {
                ListenerKind::Tcp(listener) => [PollFd::new(listener, PollFlags::IN)],
                ListenerKind::Unix(listener, _) => [PollFd::new(listener, PollFlags::IN)],
            };
            match poll(&mut ready, Some(&Timespec { tv_sec: 0, tv_nsec: POLL_INTERVAL_NS })) {
                Ok(0) | Err(Errno::INTR) => continue,
                Ok(_) => {}
                Err(error) => return Err(error.into()),
            }
            return Ok(Some(match &self.kind {
                ListenerKind::Tcp(listener) => {
                    let stream = listener.accept()?.0;
                    // Packets are small, and each waits for the answer to the previous one.
                    stream.set_nodelay(true)?;
                    GdbStream::Tcp(stream)
                }
                ListenerKind::Unix(listener, _) => GdbStream::Unix(listener.accept()?.0),
            }));
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let ListenerKind::Unix(_, path) = &self.kind {
            // Ignored: the file was removed already, or cannot be removed.
            let _ = std::fs::remove_file(path);
        }
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// Stream to gdb.
pub(super) enum GdbStream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl GdbStream {
    pub(super) fn try_clone(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Tcp(stream) => Self::Tcp(stream.try_clone()?),
            Self::Unix(stream) => Self::Unix(stream.try_clone()?),
        })
    }

    /// Shuts down both directions, which also ends a blocked read.
    pub(super) fn shut_down(&self) {
        // Ignored: the connection is already closed.
        let _ = match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Both),
            Self::Unix(stream) => stream.shutdown(Shutdown::Both),
        };
    }
}

impl Read for GdbStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }
}

impl AsFd for GdbStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_without_a_host_are_on_this_machine() {
        for text in ["0", ":0", "127.0.0.1:0"] {
            let listener = Listener::open(text).unwrap();
            assert!(listener.to_string().starts_with("127.0.0.1:"), "{listener}");
        }
        assert!(Listener::open("127.0.0.1:notaport").is_err());
    }

    #[test]
    fn a_socket_replaces_nothing_and_is_gone_in_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("gdb.sock");
        let name = path.to_str().unwrap();
        std::fs::write(&path, "precious").unwrap();
        assert!(Listener::open(name).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
        std::fs::remove_file(&path).unwrap();
        let listener = Listener::open(name).unwrap();
        assert!(path.exists());
        drop(listener);
        assert!(!path.exists());
    }
}
