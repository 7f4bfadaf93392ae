//! Dispatcher of all system calls, which reports each to an observer.
//!
//! A [`CallObserver`] given to [`Kvm::open_with`](crate::Kvm::open_with) gets each call after it returned: its name, arguments,
//! result and duration. Without one, a call costs one test of a pointer more than the bare ioctl: arguments are not
//! formatted and no clock is read.

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

/// Record of a finished system call, for an observer. Has public fields only, so that tests of observers can make one.
#[derive(Debug)]
pub struct CallRecord<'a> {
    /// System call that was made.
    pub call: Call,
    /// Arguments of the system call.
    pub arguments: CallArgs<'a>,
    /// Value that the call returned, or its error.
    pub result: Result<&'a dyn CallResult, &'a io::Error>,
    /// Time at which the system call began.
    pub started: Instant,
    /// Duration of the system call.
    pub elapsed: Duration,
}

/// Arguments of a system call: a structure, or text to show.
#[derive(Clone, Copy)]
pub enum CallArgs<'a> {
    /// Arguments as text, which is formatted only when it is displayed.
    Text(fmt::Arguments<'a>),
    /// Registers that were passed to `KVM_SET_REGS`.
    Regs(&'a kvm_regs),
    /// Registers that were passed to `KVM_SET_SREGS`.
    Sregs(&'a kvm_sregs),
    /// Memory slot that was passed to `KVM_SET_USER_MEMORY_REGION`.
    Region(&'a kvm_userspace_memory_region),
}

/// Value that a call returned, such as a `kvm_sregs`: can be shown (`Debug`) and downcast.
pub trait CallResult: fmt::Debug + Any {}

impl<T: fmt::Debug + Any> CallResult for T {}

impl dyn CallResult {
    /// Returns the value if it is a `T`.
    #[must_use]
    pub fn downcast_ref<T: Any>(&self) -> Option<&T> {
        let any: &dyn Any = self;
        any.downcast_ref()
    }

    /// Returns the address in this process of the memory that the call mapped, if it mapped some.
    #[must_use]
    pub fn mapped_address(&self) -> Option<usize> {
        let memory = self.downcast_ref::<MmapRegion>().map(|region| region.as_ptr().addr());
        memory.or_else(|| self.downcast_ref::<RunArea>().map(RunArea::address))
    }

    /// Returns the file descriptor that the call created, if it created one.
    #[must_use]
    pub fn fd(&self) -> Option<RawFd> {
        let kvm = self.downcast_ref::<kvm_ioctls::Kvm>().map(AsRawFd::as_raw_fd);
        let vm = || self.downcast_ref::<kvm_ioctls::VmFd>().map(AsRawFd::as_raw_fd);
        let vcpu = || self.downcast_ref::<kvm_ioctls::VcpuFd>().map(AsRawFd::as_raw_fd);
        let file = || self.downcast_ref::<File>().map(AsRawFd::as_raw_fd);
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

/// Observer of all system calls that this crate makes. It runs on the thread that made the call, sometimes while the VM's
/// memory slots are locked: it must not call methods of the VM.
pub trait CallObserver: Send + Sync {
    /// Receives the record of one system call, after the call returned.
    fn observe(&self, record: &CallRecord<'_>);
}

/// Makes calls and reports them to the observer, if there is one. Cloned with each [`Kvm`](crate::Kvm).
#[derive(Clone, Default)]
pub(crate) struct Dispatcher(Option<Arc<dyn CallObserver>>);

impl Dispatcher {
    pub(crate) fn new(observer: Option<Arc<dyn CallObserver>>) -> Self {
        Self(observer)
    }

    /// Makes one call and reports it to the observer.
    ///
    /// `arguments` is a structure, or comes from `format_args!`, which formats nothing until it is displayed.
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

impl fmt::Debug for Dispatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Dispatcher(yes)" } else { "Dispatcher(no)" })
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
            let read = record.result.ok().and_then(|answer| answer.downcast_ref::<kvm_regs>());
            let written = if let CallArgs::Regs(regs) = record.arguments { Some(regs) } else { None };
            *self.0.lock().unwrap() = read.or(written).unwrap().rip;
        }
    }

    #[test]
    fn registers_are_seen_as_what_they_are() {
        let last = Arc::new(LastRip::default());
        let dispatcher = Dispatcher::new(Some(last.clone()));
        let regs = kvm_regs { rip: 0x1000, ..Default::default() };
        dispatcher.call(Call::SetRegs, &regs, || Ok::<_, io::Error>(())).unwrap();
        assert_eq!(*last.0.lock().unwrap(), 0x1000);
        let regs = kvm_regs { rip: 0x2000, ..regs };
        dispatcher.call(Call::GetRegs, format_args!(""), || Ok::<_, io::Error>(regs)).unwrap();
        assert_eq!(*last.0.lock().unwrap(), 0x2000);
    }

    #[test]
    fn an_observer_sees_arguments_and_results_of_good_and_bad_calls() {
        let lines = Arc::new(Lines::default());
        let dispatcher = Dispatcher::new(Some(lines.clone()));
        let good: Result<i32, io::Error> = Ok(12);
        assert_eq!(dispatcher.call(Call::GetApiVersion, format_args!(""), || good).unwrap(), 12);
        let bad: Result<(), io::Error> = Err(io::Error::from_raw_os_error(libc::EINVAL));
        let address = crate::Gpa(0x1000);
        assert!(dispatcher.call(Call::SetTssAddr, format_args!("{address}"), || bad).is_err());
        assert_eq!(
            *lines.0.lock().unwrap(),
            ["KVM_GET_API_VERSION() = 12", "KVM_SET_TSS_ADDR(0x1000) = error Some(22)"]
        );
    }
}
