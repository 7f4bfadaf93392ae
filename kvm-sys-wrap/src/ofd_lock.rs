//! Locks of open file descriptions (`F_OFD_SETLK`, fcntl(2)): processes tell each other what they are working on.
//!
//! The kernel drops the locks of a process that ends, however it ends. Unlike `flock(2)`, a lock is on a byte of a file, whether
//! the file has that byte or not. So a descriptor of a directory has locks for each of its names.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Takes a shared lock on the byte at `offset`. It lasts until the last descriptor of this open file description is closed.
///
/// # Errors
/// The error of `fcntl`: a file system without locks, for one.
pub fn lock_byte_shared(file: &impl AsFd, offset: u32) -> io::Result<()> {
    control(file, libc::F_OFD_SETLK, libc::F_RDLCK, offset).map(|_| ())
}

/// Returns true if another open file description has a lock on the byte at `offset`.
///
/// # Errors
/// The error of `fcntl`.
pub fn is_byte_locked(file: &impl AsFd, offset: u32) -> io::Result<bool> {
    Ok(control(file, libc::F_OFD_GETLK, libc::F_WRLCK, offset)?.l_type != kind(libc::F_UNLCK))
}

fn control(
    file: &impl AsFd,
    command: libc::c_int,
    lock_type: libc::c_int,
    offset: u32,
) -> io::Result<libc::flock> {
    let mut lock = libc::flock {
        l_type: kind(lock_type),
        l_whence: kind(libc::SEEK_SET),
        l_start: offset.into(),
        l_len: 1,
        l_pid: 0,
    };
    // SAFETY: both commands take a pointer to one `flock`, which is a live local.
    match unsafe { libc::fcntl(file.as_fd().as_raw_fd(), command, &raw mut lock) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(lock),
    }
}

/// Constant of fcntl(2) in the type of its field; all of them are below 3.
fn kind(constant: libc::c_int) -> libc::c_short {
    libc::c_short::try_from(constant).unwrap_or(libc::c_short::MAX)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    #[cfg_attr(miri, ignore = "F_OFD_SETLK")]
    fn a_lock_is_seen_by_others_only_and_ends_with_its_descriptor() {
        let [first, second] = [(); 2].map(|()| File::open(std::env::temp_dir()).unwrap());
        // Other runs of this test use other bytes.
        let offset = std::process::id();
        lock_byte_shared(&first, offset).unwrap();
        assert!(!is_byte_locked(&first, offset).unwrap());
        assert!(is_byte_locked(&second, offset).unwrap());
        assert!(!is_byte_locked(&second, offset | 1 << 31).unwrap());
        lock_byte_shared(&second, offset).unwrap();
        assert!(is_byte_locked(&first, offset).unwrap());
        drop(first);
        assert!(!is_byte_locked(&second, offset).unwrap());
    }
}
