//! Tests that run in the kernel.
//!
//! A file in `tests/` is a kernel of its own. It names its tests within [`tests!`], and `cargo test` boots it:
//!
//! ```ignore
//! #![no_std]
//! #![no_main]
//!
//! template_kernel::tests! {
//!     fn one_and_one() {
//!         assert_eq!(1 + 1, 2);
//!     }
//! }
//! ```
//!
//! A test that panics ends the run with a failure, since there is nothing to unwind with.

use core::panic::PanicInfo;

use crate::exit::{Status, exit};
use crate::{print, println};

/// A test and its name.
pub type Test = (&'static str, fn());

/// Runs tests one after the other and ends the run.
pub fn run(tests: &[Test]) -> ! {
    println!("running {} tests", tests.len());
    for (name, test) in tests {
        print!("test {name} ... ");
        test();
        println!("ok");
    }
    println!("test result: ok");
    exit(Status::Success)
}

/// What a panic means where none is wanted: the end, as a failure.
pub fn failed(panic: &PanicInfo<'_>) -> ! {
    println!("{panic}");
    exit(Status::Failure)
}

/// Makes a kernel of the functions within: it runs them and ends.
#[macro_export]
macro_rules! tests {
    ($($(#[$attribute:meta])* fn $name:ident() $body:block)+) => {
        $($(#[$attribute])* fn $name() $body)+

        fn run_tests() -> ! {
            $crate::testing::run(&[$((::core::stringify!($name), $name as fn())),+])
        }

        $crate::entry!(run_tests);

        #[panic_handler]
        fn panic(panic: &::core::panic::PanicInfo<'_>) -> ! {
            $crate::testing::failed(panic)
        }
    };
}
