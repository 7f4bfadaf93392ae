//! Listens for gdb on a Unix socket or a TCP port.
//!
//! Anyone who can connect controls the guest. A socket can be opened by its owner only (mode 0600); by default it is in a new
//! directory of its own. It is removed at the end of the run if it is still the same file; an existing file is not replaced.
//! A TCP port is open to all users of the host, so it is used only on request, with a warning, and bound to the loopback
//! address unless the user names another.

use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, fchmod};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};
use vmm_core::kvm_sys_wrap::termination_requested;
use vmm_core::sandbox::DirectoryUse;

use super::private_directory::{PrivateDirectory, SOCKET_NAME};

/// Interval at which a wait checks for termination requests, in nanoseconds.
const POLL_INTERVAL_NS: i64 = 200_000_000;

/// Address for a socket in a directory of its own.
pub(crate) const PRIVATE_SOCKET: &str = "unix";

/// Listening socket.
pub(super) struct Listener {
    kind: ListenerKind,
    /// Address in the form that gdb takes.
    name: String,
}

enum ListenerKind {
    Tcp(TcpListener, SocketAddr),
    /// The file comes first: as long as the listener is open, no other file can get the number of its inode.
    Unix {
        file: SocketFile,
        listener: UnixListener,
    },
}

/// File of a listening socket. It is removed when the value is dropped.
struct SocketFile {
    path: PathBuf,
    /// Device and inode of the file.
    id: (u64, u64),
    /// Directory that was made for the socket.
    directory: Option<PrivateDirectory>,
}

impl SocketFile {
    /// Creates a socket that only its owner can open, and listens on it.
    fn listen(path: PathBuf, directory: Option<PrivateDirectory>) -> io::Result<(UnixListener, Self)> {
        let address = SocketAddrUnix::new(&path)?;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        // The file gets the mode of the socket: there is no moment at which others could connect.
        fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
        bind(&socket, &address)?;
        let id = file_id(&path)?;
        let file = Self { path, id, directory };
        listen(&socket, 1)?;
        Ok((socket.into(), file))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if file_id(&self.path).is_ok_and(|id| id == self.id) {
            // Ignored: the directory may have become read-only.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Returns device and inode of the file at `path`, without following a symbolic link.
fn file_id(path: &Path) -> io::Result<(u64, u64)> {
    let data = fs::symlink_metadata(path)?;
    Ok((data.dev(), data.ino()))
}

impl Listener {
    /// Opens a socket. `text` is [`PRIVATE_SOCKET`], a path, which contains a slash, or `host:port`, `:port` or `port`.
    pub(super) fn open(text: &str) -> io::Result<Self> {
        let unix = |path: PathBuf, directory| {
            let name = path.display().to_string();
            let (listener, file) = SocketFile::listen(path, directory)?;
            Ok(Self { kind: ListenerKind::Unix { file, listener }, name })
        };
        if text == PRIVATE_SOCKET {
            let directory = PrivateDirectory::create()?;
            return unix(directory.path().join(SOCKET_NAME), Some(directory));
        }
        if text.contains('/') {
            return unix(PathBuf::from(text), None);
        }
        let address = match text.rsplit_once(':') {
            None => format!("127.0.0.1:{text}"),
            Some(("", port)) => format!("127.0.0.1:{port}"),
            Some(_) => text.to_owned(),
        };
        let listener = TcpListener::bind(&address)?;
        // With port 0 the kernel chooses the port.
        let address = listener.local_addr()?;
        Ok(Self { kind: ListenerKind::Tcp(listener, address), name: address.to_string() })
    }

    /// Returns a warning about others who can connect, if there are any.
    pub(super) fn warning(&self) -> Option<String> {
        match &self.kind {
            ListenerKind::Unix { .. } => None,
            ListenerKind::Tcp(_, address) if address.ip().to_canonical().is_loopback() => Some(format!(
                "every user of this host can connect to {address} and control the guest; `--gdb` without an address uses \
                 a socket that is yours alone"
            )),
            ListenerKind::Tcp(_, address) => Some(format!(
                "everybody who reaches {address} over the network can control the guest, read its memory and change it, \
                 without a password"
            )),
        }
    }

    /// Returns the directories in which something is removed at the end: the socket, and the directory that was made for it.
    pub(super) fn directories(&self) -> Vec<(&Path, DirectoryUse)> {
        let ListenerKind::Unix { file, .. } = &self.kind else { return Vec::new() };
        let socket = file.path.parent().map(|path| (path, DirectoryUse::Socket));
        let private = file.directory.as_ref().and_then(|directory| directory.path().parent());
        socket.into_iter().chain(private.map(|path| (path, DirectoryUse::Directory))).collect()
    }

    /// Waits for a connection. Returns `None` if termination was requested.
    pub(super) fn accept(&self) -> io::Result<Option<GdbStream>> {
        loop {
            if termination_requested() {
                return Ok(None);
            }
            let mut ready = match &self.kind {
                ListenerKind::Tcp(listener, _) => [PollFd::new(listener, PollFlags::IN)],
                ListenerKind::Unix { listener, .. } => [PollFd::new(listener, PollFlags::IN)],
            };
            match poll(&mut ready, Some(&Timespec { tv_sec: 0, tv_nsec: POLL_INTERVAL_NS })) {
                Ok(0) | Err(Errno::INTR) => continue,
                Ok(_) => {}
                Err(error) => return Err(error.into()),
            }
            return Ok(Some(match &self.kind {
                ListenerKind::Tcp(listener, _) => {
                    let stream = listener.accept()?.0;
                    // Packets are small, and each waits for the answer to the previous one.
                    stream.set_nodelay(true)?;
                    GdbStream::Tcp(stream)
                }
                ListenerKind::Unix { listener, .. } => GdbStream::Unix(listener.accept()?.0),
            }));
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
            let warning = listener.warning().unwrap();
            assert!(warning.starts_with("every user of this host can connect to 127.0.0.1:"), "{warning}");
        }
        let open = Listener::open("0.0.0.0:0").unwrap();
        assert!(open.warning().unwrap().contains("over the network"));
        assert!(Listener::open("127.0.0.1:notaport").is_err());
    }

    #[test]
    fn a_socket_replaces_nothing_and_is_gone_in_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("gdb.sock");
        let name = path.to_str().unwrap();
        fs::write(&path, "precious").unwrap();
        assert!(Listener::open(name).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        fs::remove_file(&path).unwrap();
        let listener = Listener::open(name).unwrap();
        assert_eq!(fs::symlink_metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(listener.warning(), None);
        drop(listener);
        assert!(!path.exists());
    }

    #[test]
    fn a_file_that_took_the_place_of_the_socket_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("gdb.sock");
        let listener = Listener::open(path.to_str().unwrap()).unwrap();
        fs::remove_file(&path).unwrap();
        let other = UnixListener::bind(&path).unwrap();
        drop(listener);
        assert!(path.exists());
        drop(other);
    }

    #[test]
    fn the_private_socket_is_in_a_directory_of_its_own() {
        let parent = tempfile::tempdir().unwrap();
        let directory = PrivateDirectory::create_in(parent.path()).unwrap();
        let (listener, file) =
            SocketFile::listen(directory.path().join(SOCKET_NAME), Some(directory)).unwrap();
        drop((file, listener));
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);

        let listener = Listener::open(PRIVATE_SOCKET).unwrap();
        let path = PathBuf::from(listener.to_string());
        UnixStream::connect(&path).unwrap();
        drop(listener);
        assert!(!path.parent().unwrap().exists());
    }
}
