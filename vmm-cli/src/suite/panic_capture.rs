//! Catches panics: a bug in one case fails that case and not the suite.

use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};

thread_local! {
    /// Message of the last panic on a capturing thread.
    static PANIC_MESSAGE: RefCell<Option<String>> = const { RefCell::new(None) };
    static CAPTURING: RefCell<bool> = const { RefCell::new(false) };
}

/// Installs a panic hook that captures the messages of panics inside [`catch_panic`]. Other panics are reported as before.
pub(super) fn install() {
    let shown = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if CAPTURING.with_borrow(|guarded| *guarded) {
            PANIC_MESSAGE.set(Some(panic_message(info)));
        } else {
            shown(info);
        }
    }));
}

/// Runs `work`. Returns the message if it panics.
pub(super) fn catch_panic<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    CAPTURING.set(true);
    // State that a panic leaves incomplete is dropped with the closure: the machine of this case.
    let result = panic::catch_unwind(AssertUnwindSafe(work));
    CAPTURING.set(false);
    result.map_err(|_| PANIC_MESSAGE.take().unwrap_or_else(|| "panicked on another thread".to_owned()))
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
        install();
        let caught = catch_panic(|| -> u32 { panic!("a bug") }).unwrap_err();
        assert!(caught.starts_with("a bug at ") && caught.contains("panic_capture.rs"), "{caught}");
        assert_eq!(catch_panic(|| 1), Ok(1));
    }
}
