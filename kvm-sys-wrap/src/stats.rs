//! `KVM_GET_STATS_FD`: the kernel's counters of a VM or a vCPU, with their names (api.rst 4.133, Linux 5.14).
//!
//! The call returns a file. Its header gives the offsets of the descriptors (name, type and unit of each counter) and of the
//! values. Kernels differ in which counters they have: all are read, none is interpreted. Descriptors never change, so they
//! are read once; values are read at each [`Stats::read`].

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::os::unix::fs::FileExt;

use crate::call::Call;
use crate::create_vcpu::Vcpu;
use crate::create_vm::Vm;
use crate::error::{Result, call_failed};
use crate::observe::Dispatcher;

/// `_IO(KVMIO, 0xce)` of linux/kvm.h.
const KVM_GET_STATS_FD: libc::Ioctl = 0xaece;

/// Limit for the number of descriptors and for the length of names, far above those of any kernel.
const MAX_STATS: u32 = 1 << 12;
/// Bytes of `struct kvm_stats_header`, and of `struct kvm_stats_desc` without the name at its end.
const HEADER_SIZE: usize = 24;
const DESCRIPTOR_SIZE: usize = 16;

/// Type of a kernel counter: cumulative, instant, peak or histogram (`KVM_STATS_TYPE_*`).
///
/// Exhaustive: types that this version does not know are [`StatKind::Other`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StatKind {
    /// The value of the counter only grows.
    Cumulative,
    /// The value of the counter grows and shrinks.
    Instant,
    /// The value of the counter is the highest one so far.
    Peak,
    /// Histogram with buckets of one size, in units of the counter; the last bucket has all larger values.
    LinearHistogram {
        /// Size of a bucket, in units of the counter.
        bucket: u32,
    },
    /// Histogram with buckets for 0, 1, 2 to 3, 4 to 7 and so on.
    LogHistogram,
    /// Type of a later kernel, with its number.
    Other(u32),
}

/// Unit of a kernel counter (`KVM_STATS_UNIT_*`).
///
/// Exhaustive: units that this version does not know are [`StatUnit::Other`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StatUnit {
    /// The value is a number of events or objects.
    Count,
    /// The value is in bytes.
    Bytes,
    /// The value is in seconds.
    Seconds,
    /// The value is in CPU cycles.
    Cycles,
    /// The value is a boolean: 0 or 1.
    Boolean,
    /// Unit of a later kernel, with its number.
    Other(u32),
}

/// Counter of the kernel with its value: all fields of `struct kvm_stats_desc`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// Name in the kernel, such as `halt_exits`.
    pub name: String,
    /// Type of the counter: cumulative, instant, peak or histogram.
    pub kind: StatKind,
    /// Unit of the value, once `base` and `exponent` are applied.
    pub unit: StatUnit,
    /// Base of the scale, 2 or 10: a value times `base` to the power of `exponent` is in the unit. For seconds, 10 and -9 mean
    /// nanoseconds.
    pub base: u8,
    /// Exponent of the scale: a value times `base` to the power of `exponent` is in the unit.
    pub exponent: i16,
    /// Value of the counter, or one value for each bucket of a histogram.
    pub values: Vec<u64>,
}

/// Open counters of a VM or a vCPU ([`Vm::stats`], [`Vcpu::stats`]). They stay readable after it was dropped, with the last values.
#[derive(Debug)]
pub struct Stats {
    file: File,
    descriptors: Vec<StatDescriptor>,
    data_offset: u64,
    data_length: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct StatDescriptor {
    stat: Stat,
    /// Offset of its values in the data, in bytes.
    offset: usize,
    length: usize,
}

impl Vm {
    /// Opens the VM's counters (`KVM_GET_STATS_FD`, api.rst 4.133).
    ///
    /// # Errors
    /// [`Error::Call`](crate::Error::Call), ENOTTY where the kernel is older than 5.14.
    pub fn stats(&self) -> Result<Stats> {
        let detail = "the VM's counters".to_owned();
        let fd = self.fd().map_err(|error| call_failed(Call::GetVmStatsFd, detail.clone())(error.into()))?;
        Stats::open(Call::GetVmStatsFd, self.dispatcher(), fd.as_raw_fd(), detail)
    }
}

impl Vcpu {
    /// Opens the vCPU's counters (`KVM_GET_STATS_FD`, api.rst 4.133).
    ///
    /// # Errors
    /// [`Error::Call`](crate::Error::Call), ENOTTY where the kernel is older than 5.14.
    pub fn stats(&self) -> Result<Stats> {
        let detail = format!("the counters of vCPU {}", self.id());
        Stats::open(Call::GetVcpuStatsFd, self.dispatcher(), self.fd.as_raw_fd(), detail)
    }
}

impl Stats {
    fn open(call: Call, dispatcher: &Dispatcher, fd: RawFd, detail: String) -> Result<Self> {
        let open = || {
            // SAFETY: the call takes no argument and touches no memory of ours.
            let descriptor = unsafe { libc::ioctl(fd, KVM_GET_STATS_FD, 0) };
            if descriptor < 0 {
                return Err(io::Error::last_os_error());
            }
            // SAFETY: a new descriptor, which nothing else owns.
            Ok(unsafe { File::from_raw_fd(descriptor) })
        };
        let file = dispatcher.call(call, format_args!(""), open);
        file.and_then(Self::from_file).map_err(call_failed(call, detail))
    }

    /// Reads header and descriptors.
    fn from_file(file: File) -> io::Result<Self> {
        let mut header = [0; HEADER_SIZE];
        file.read_exact_at(&mut header, 0)?;
        // flags, name_size, num_desc, id_offset, desc_offset, data_offset
        let word = |index: usize| word(&header, index * 4);
        let (name_size, count, at, data_offset) = (word(1)?, word(2)?, word(4)?, word(5)?);
        if name_size > MAX_STATS || count > MAX_STATS {
            return Err(malformed());
        }
        let size = DESCRIPTOR_SIZE + usize::try_from(name_size).map_err(|_| malformed())?;
        let mut bytes = vec![0; size * usize::try_from(count).map_err(|_| malformed())?];
        file.read_exact_at(&mut bytes, at.into())?;
        let descriptors: Vec<_> =
            bytes.chunks_exact(size).map(StatDescriptor::decode).collect::<io::Result<_>>()?;
        let end = |descriptor: &StatDescriptor| descriptor.offset + descriptor.length;
        let data_length = descriptors.iter().map(end).max().unwrap_or(0);
        Ok(Self { file, descriptors, data_offset: data_offset.into(), data_length })
    }

    /// Reads all counters, in the kernel's order (`pread`).
    ///
    /// # Errors
    /// The error of `pread`.
    pub fn read(&self) -> io::Result<Vec<Stat>> {
        let mut data = vec![0; self.data_length];
        self.file.read_exact_at(&mut data, self.data_offset)?;
        let filled = self.descriptors.iter().map(|StatDescriptor { stat, offset, length }| {
            let bytes = data.get(*offset..offset + length).unwrap_or_default();
            let values = bytes.as_chunks().0.iter().map(|value| u64::from_le_bytes(*value)).collect();
            Stat { values, ..stat.clone() }
        });
        Ok(filled.collect())
    }

    /// Reads the first value of one counter, by its name in the kernel (`pread`). Returns `None` where this kernel does not have it.
    ///
    /// # Errors
    /// The error of `pread`.
    pub fn counter(&self, name: &str) -> io::Result<Option<u64>> {
        let Some(descriptor) = self.descriptors.iter().find(|descriptor| descriptor.stat.name == name) else {
            return Ok(None);
        };
        let mut value = [0; size_of::<u64>()];
        let offset = self.data_offset.saturating_add(descriptor.offset as u64);
        self.file.read_exact_at(&mut value, offset)?;
        Ok(Some(u64::from_le_bytes(value)))
    }
}

impl StatDescriptor {
    /// Decodes one `struct kvm_stats_desc`: flags, exponent (s16), size (u16), offset, bucket_size, name.
    fn decode(bytes: &[u8]) -> io::Result<Self> {
        let flags = word(bytes, 0)?;
        let (exponent, count) = (half(bytes, 4)?, u16::from_le_bytes(half(bytes, 6)?));
        let (offset, bucket) = (word(bytes, 8)?, word(bytes, 12)?);
        let name = bytes.get(DESCRIPTOR_SIZE..).unwrap_or_default();
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        let kind = match flags & kvm_bindings::KVM_STATS_TYPE_MASK {
            kvm_bindings::KVM_STATS_TYPE_CUMULATIVE => StatKind::Cumulative,
            kvm_bindings::KVM_STATS_TYPE_INSTANT => StatKind::Instant,
            kvm_bindings::KVM_STATS_TYPE_PEAK => StatKind::Peak,
            kvm_bindings::KVM_STATS_TYPE_LINEAR_HIST => StatKind::LinearHistogram { bucket },
            kvm_bindings::KVM_STATS_TYPE_LOG_HIST => StatKind::LogHistogram,
            other => StatKind::Other(other),
        };
        let unit = match flags & kvm_bindings::KVM_STATS_UNIT_MASK {
            kvm_bindings::KVM_STATS_UNIT_NONE => StatUnit::Count,
            kvm_bindings::KVM_STATS_UNIT_BYTES => StatUnit::Bytes,
            kvm_bindings::KVM_STATS_UNIT_SECONDS => StatUnit::Seconds,
            kvm_bindings::KVM_STATS_UNIT_CYCLES => StatUnit::Cycles,
            kvm_bindings::KVM_STATS_UNIT_BOOLEAN => StatUnit::Boolean,
            other => StatUnit::Other(other >> kvm_bindings::KVM_STATS_UNIT_SHIFT),
        };
        let binary = flags & kvm_bindings::KVM_STATS_BASE_MASK == kvm_bindings::KVM_STATS_BASE_POW2;
        let stat = Stat {
            name: String::from_utf8_lossy(name).into_owned(),
            kind,
            unit,
            base: if binary { 2 } else { 10 },
            exponent: i16::from_le_bytes(exponent),
            values: Vec::new(),
        };
        let offset = usize::try_from(offset).ok().filter(|offset| *offset <= 1 << 20);
        Ok(Self {
            stat,
            offset: offset.ok_or_else(malformed)?,
            length: usize::from(count) * size_of::<u64>(),
        })
    }
}

fn word(bytes: &[u8], at: usize) -> io::Result<u32> {
    let word = bytes.get(at..).and_then(|rest| rest.first_chunk()).ok_or_else(malformed)?;
    Ok(u32::from_le_bytes(*word))
}

fn half(bytes: &[u8], at: usize) -> io::Result<[u8; 2]> {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().ok_or_else(malformed)
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the counters' file is not as its documentation says")
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// A file as the kernel makes it: header, an id of 8 bytes, descriptors with names of 8 bytes, data.
    fn file(count: u32) -> File {
        let mut bytes = Vec::new();
        let data_at = 32 + count * 24;
        for word in [0, 8, count, 24, 32, data_at] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(*b"kvm-1\0\0\0");
        for (flags, exponent, size, offset, bucket, name) in
            [(0x10_u32, 0_i16, 1_u16, 0_u32, 0_u32, b"pages\0\0\0"), (0x23, -9, 3, 8, 50, b"wait_ns\0")]
        {
            bytes.extend(flags.to_le_bytes());
            bytes.extend(exponent.to_le_bytes());
            bytes.extend(size.to_le_bytes());
            bytes.extend(offset.to_le_bytes());
            bytes.extend(bucket.to_le_bytes());
            bytes.extend(name);
        }
        for value in [7_u64, 1, 2, 3] {
            bytes.extend(value.to_le_bytes());
        }
        let descriptor = std::ffi::CString::new("stats").unwrap();
        // SAFETY: the name is a C string; a new descriptor is ours alone.
        let raw = unsafe { libc::memfd_create(descriptor.as_ptr(), libc::MFD_CLOEXEC) };
        assert!(raw >= 0);
        // SAFETY: as above.
        let mut file = unsafe { File::from_raw_fd(raw) };
        file.write_all(&bytes).unwrap();
        file
    }

    #[test]
    #[cfg_attr(miri, ignore = "memfd_create")]
    fn names_shapes_and_values_are_read() {
        let stats = Stats::from_file(file(2)).unwrap().read().unwrap();
        let expected = [
            Stat {
                name: "pages".to_owned(),
                kind: StatKind::Cumulative,
                unit: StatUnit::Bytes,
                base: 10,
                exponent: 0,
                values: vec![7],
            },
            Stat {
                name: "wait_ns".to_owned(),
                kind: StatKind::LinearHistogram { bucket: 50 },
                unit: StatUnit::Seconds,
                base: 10,
                exponent: -9,
                values: vec![1, 2, 3],
            },
        ];
        assert_eq!(stats, expected);
    }

    #[test]
    #[cfg_attr(miri, ignore = "memfd_create")]
    fn a_file_that_claims_too_much_is_refused() {
        assert_eq!(Stats::from_file(file(5000)).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(Stats::from_file(file(6)).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
