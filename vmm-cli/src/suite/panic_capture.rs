//! Catches panics in a worker process, so that the report of the case has the message.

use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::sync::{Mutex, PoisonError};

/// Message of the first panic of this process.
static PANIC_MESSAGE: Mutex<Option<String>> = Mutex::new(None);

/// Installs a panic hook that keeps the message of the first panic, on any thread, and prints nothing.
pub(super) fn install() {
    panic::set_hook(Box::new(|info| {
        let message = panic_message(info);
        PANIC_MESSAGE.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(message);
    }));
}

/// Runs `work`. Returns the message if it panics; the process should end then.
pub(super) fn catch_panic<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    // State that a panic leaves incomplete is dropped with the closure: the machine of this case.
    panic::catch_unwind(AssertUnwindSafe(work)).map_err(|_| {
        let message = PANIC_MESSAGE.lock().unwrap_or_else(PoisonError::into_inner).take();
        message.unwrap_or_else(|| "no words".to_owned())
    })
}

fn panic_message(info: &PanicHookInfo<'_>) -> String {
    let payload = info.payload();
    let formatted = payload.downcast_ref::<String>().map(String::as_str);
    let message = formatted.or_else(|| payload.downcast_ref().copied()).unwrap_or("no words");
    info.location().map_or_else(|| message.to_owned(), |place| format!("{message} at {place}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_its_words() {
        let shown = panic::take_hook();
        install();
        let caught = catch_panic(|| -> u32 { panic!("a bug") });
        let other_thread = catch_panic(|| {
            std::thread::scope(|scope| {
                scope.spawn(|| panic!("a bug of a vCPU thread"));
            });
        });
        panic::set_hook(shown);
        let caught = caught.unwrap_err();
        assert!(caught.starts_with("a bug at ") && caught.contains("panic_capture.rs"), "{caught}");
        let other_thread = other_thread.unwrap_err();
        assert!(other_thread.starts_with("a bug of a vCPU thread at "), "{other_thread}");
        assert_eq!(catch_panic(|| 1), Ok(1));
    }
}
