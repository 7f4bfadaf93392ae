//! The one place through which every call passes, so that each can be observed.
//!
//! Whoever opens [`Kvm`](crate::Kvm) may hand in a [`CallObserver`]. It is then told of each call after it returned:
//! its name, its arguments, its result and how long it took. Without one, a call costs one test of a pointer more
//! than the bare ioctl: arguments are not formatted and no clock is read.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::call::Call;

/// One finished call.
#[derive(Debug)]
pub struct CallRecord<'a> {
    /// Which call.
    pub call: Call,
    /// Its arguments, as text for people.
    pub arguments: fmt::Arguments<'a>,
    /// What it gave back, or the error.
    pub result: Result<&'a dyn fmt::Debug, &'a io::Error>,
    /// When it was made.
    pub started: Instant,
    /// How long it took.
    pub elapsed: Duration,
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
    /// `arguments` comes from `format_args!`, which formats nothing until somebody looks.
    #[inline]
    pub(crate) fn call<T: fmt::Debug, E: Into<io::Error>>(
        &self,
        call: Call,
        arguments: fmt::Arguments<'_>,
        make: impl FnOnce() -> Result<T, E>,
    ) -> io::Result<T> {
        let Some(observer) = &self.0 else { return make().map_err(Into::into) };
        let started = Instant::now();
        let result = make().map_err(Into::into);
        let elapsed = started.elapsed();
        let shown = match &result {
            Ok(value) => Ok(value as &dyn fmt::Debug),
            Err(error) => Err(error),
        };
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
