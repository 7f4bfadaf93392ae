//! The one place through which every call passes, so that each can be observed.
//!
//! Whoever opens [`Kvm`](crate::Kvm) may hand in a [`CallObserver`]. It is then told of each call after it returned:
//! its name, its arguments, its result and how long it took. Without one, a call costs one test of a pointer more
//! than the bare ioctl: arguments are not formatted and no clock is read.

use std::any::Any;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvm_bindings::{kvm_regs, kvm_sregs, kvm_userspace_memory_region};
use vm_memory::MmapRegion;

use crate::call::Call;
use crate::kvm_run::RunArea;

/// One finished call.
#[derive(Debug)]
pub struct CallRecord<'a> {
    /// Which call.
    pub call: Call,
    /// Its arguments.
    pub arguments: CallArgs<'a>,
    /// What it gave back, or the error.
    pub result: Result<&'a dyn CallResult, &'a io::Error>,
    /// When it was made.
    pub started: Instant,
    /// How long it took.
    pub elapsed: Duration,
}

/// What a call was given. As text, it is for people.
#[derive(Clone, Copy)]
pub enum CallArgs<'a> {
    /// Few enough to be a text. Nothing is formatted until somebody looks.
    Text(fmt::Arguments<'a>),
    /// All general registers.
    Regs(&'a kvm_regs),
    /// All special registers.
    Sregs(&'a kvm_sregs),
    /// A memory slot.
    Region(&'a kvm_userspace_memory_region),
}

/// What a call gave back: text for people, and the value itself, such as a `kvm_sregs`.
pub trait CallResult: fmt::Debug + Any {}

impl<T: fmt::Debug + Any> CallResult for T {}

impl dyn CallResult {
    /// The value as what it is, if it is a `T`.
    #[must_use]
    pub fn get<T: Any>(&self) -> Option<&T> {
        let any: &dyn Any = self;
        any.downcast_ref()
    }

    /// The address of the memory in this process, where the call mapped some.
    #[must_use]
    pub fn mapped(&self) -> Option<usize> {
        let memory = self.get::<MmapRegion>().map(|region| region.as_ptr().addr());
        memory.or_else(|| self.get::<RunArea>().map(RunArea::address))
    }

    /// The number of the file descriptor, where the call made one.
    #[must_use]
    pub fn descriptor(&self) -> Option<RawFd> {
        let kvm = self.get::<kvm_ioctls::Kvm>().map(AsRawFd::as_raw_fd);
        let vm = || self.get::<kvm_ioctls::VmFd>().map(AsRawFd::as_raw_fd);
        let vcpu = || self.get::<kvm_ioctls::VcpuFd>().map(AsRawFd::as_raw_fd);
        let file = || self.get::<File>().map(AsRawFd::as_raw_fd);
        kvm.or_else(vm).or_else(vcpu).or_else(file)
    }
}

impl<'a> From<fmt::Arguments<'a>> for CallArgs<'a> {
    fn from(text: fmt::Arguments<'a>) -> Self {
        Self::Text(text)
    }
}

impl<'a> From<&'a kvm_regs> for CallArgs<'a> {
    fn from(regs: &'a kvm_regs) -> Self {
        Self::Regs(regs)
    }
}

impl<'a> From<&'a kvm_sregs> for CallArgs<'a> {
    fn from(sregs: &'a kvm_sregs) -> Self {
        Self::Sregs(sregs)
    }
}

impl<'a> From<&'a kvm_userspace_memory_region> for CallArgs<'a> {
    fn from(region: &'a kvm_userspace_memory_region) -> Self {
        Self::Region(region)
    }
}

impl fmt::Display for CallArgs<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => text.fmt(f),
            Self::Regs(regs) => write!(f, "{regs:?}"),
            Self::Sregs(sregs) => write!(f, "{sregs:?}"),
            Self::Region(region) => write!(f, "{region:?}"),
        }
    }
}

impl fmt::Debug for CallArgs<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Is told of every call. Runs on the thread that made the call.
pub trait CallObserver: Send + Sync {
    /// Called once for each call, after it returned.
    fn observe(&self, record: &CallRecord<'_>);
}

/// The observer in use, if any: cloned into each object that makes calls.
#[derive(Clone, Default)]
pub(crate) struct Observed(Option<Arc<dyn CallObserver>>);

impl Observed {
    pub(crate) fn new(observer: Option<Arc<dyn CallObserver>>) -> Self {
        Self(observer)
    }

    /// Makes one call and tells the observer of it.
    ///
    /// `arguments` is a structure, or comes from `format_args!`, which formats nothing until somebody looks.
    #[inline]
    pub(crate) fn call<'a, T: CallResult, E: Into<io::Error>>(
        &self,
        call: Call,
        arguments: impl Into<CallArgs<'a>>,
        make: impl FnOnce() -> Result<T, E>,
    ) -> io::Result<T> {
        let Some(observer) = &self.0 else { return make().map_err(Into::into) };
        let started = Instant::now();
        let result = make().map_err(Into::into);
        let elapsed = started.elapsed();
        let shown = match &result {
            Ok(value) => Ok(value as &dyn CallResult),
            Err(error) => Err(error),
        };
        let arguments = arguments.into();
        observer.observe(&CallRecord { call, arguments, result: shown, started, elapsed });
        result
    }
}

impl fmt::Debug for Observed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Observed(yes)" } else { "Observed(no)" })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Default)]
    struct Lines(Mutex<Vec<String>>);

    impl CallObserver for Lines {
        fn observe(&self, record: &CallRecord<'_>) {
            let result = match record.result {
                Ok(value) => format!("{value:?}"),
                Err(error) => format!("error {:?}", error.raw_os_error()),
            };
            self.0.lock().unwrap().push(format!("{}({}) = {result}", record.call, record.arguments));
        }
    }

    /// Keeps the RIP that was read or written last.
    #[derive(Default)]
    struct LastRip(Mutex<u64>);

    impl CallObserver for LastRip {
        fn observe(&self, record: &CallRecord<'_>) {
            let read = record.result.ok().and_then(|answer| answer.get::<kvm_regs>());
            let written = if let CallArgs::Regs(regs) = record.arguments { Some(regs) } else { None };
            *self.0.lock().unwrap() = read.or(written).unwrap().rip;
        }
    }

    #[test]
    fn registers_are_seen_as_what_they_are() {
        let last = Arc::new(LastRip::default());
        let observed = Observed::new(Some(last.clone()));
        let regs = kvm_regs { rip: 0x1000, ..Default::default() };
        observed.call(Call::SetRegs, &regs, || Ok::<_, io::Error>(())).unwrap();
        assert_eq!(*last.0.lock().unwrap(), 0x1000);
        let regs = kvm_regs { rip: 0x2000, ..regs };
        observed.call(Call::GetRegs, format_args!(""), || Ok::<_, io::Error>(regs)).unwrap();
        assert_eq!(*last.0.lock().unwrap(), 0x2000);
    }

    #[test]
    fn an_observer_sees_arguments_and_results_of_good_and_bad_calls() {
        let lines = Arc::new(Lines::default());
        let observed = Observed::new(Some(lines.clone()));
        let good: Result<i32, io::Error> = Ok(12);
        assert_eq!(observed.call(Call::GetApiVersion, format_args!(""), || good).unwrap(), 12);
        let bad: Result<(), io::Error> = Err(io::Error::from_raw_os_error(libc::EINVAL));
        let address = crate::Gpa(0x1000);
        assert!(observed.call(Call::SetTssAddr, format_args!("{address}"), || bad).is_err());
        assert_eq!(
            *lines.0.lock().unwrap(),
            ["KVM_GET_API_VERSION() = 12", "KVM_SET_TSS_ADDR(0x1000) = error Some(22)"]
        );
    }
}
