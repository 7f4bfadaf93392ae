//! Size of the host's memory (sysinfo(2)).

use crate::error::{Error, Result};

/// Size below which guest memory is not compared with the host's: no KVM host is that small.
const MIN_CHECKED: u64 = 256 << 20;

/// Checks that the host has as much memory, RAM and swap together, as the guest may use.
///
/// # Errors
/// [`Error::Overcommit`].
pub(crate) fn check_overcommit(requested: u64) -> Result<()> {
    if requested < MIN_CHECKED {
        return Ok(());
    }
    match host_memory_size() {
        Some(available) if requested > available => Err(Error::Overcommit { requested, available }),
        _ => Ok(()),
    }
}

/// Returns the bytes of RAM and swap; `None` if the kernel does not say.
fn host_memory_size() -> Option<u64> {
    // SAFETY: sysinfo is plain data, for which zeros are valid.
    let mut info: libc::sysinfo = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a live local.
    let result = unsafe { libc::sysinfo(&raw mut info) };
    let pages = info.totalram.checked_add(info.totalswap)?;
    (result == 0).then_some(pages.checked_mul(info.mem_unit.into())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg_attr(miri, ignore = "sysinfo")]
    fn more_than_the_host_has_is_refused() {
        let size = host_memory_size().unwrap();
        assert!(size >= 64 << 20);
        assert!(check_overcommit(size.max(MIN_CHECKED)).is_ok() || size < MIN_CHECKED);
        let error = check_overcommit(1 << 50).unwrap_err();
        assert!(error.to_string().starts_with("1073741824 MiB of guest memory: this host has "), "{error}");
    }
}
