//! A kernel that has to panic: for what ends a run by design.

#![no_std]
#![no_main]

use core::panic::PanicInfo;

use template_kernel::exit::{Status, exit};
use template_kernel::println;

template_kernel::entry!(main);

fn main() -> ! {
    println!("test a_broken_promise_panics ...");
    assert_eq!(1 + 1, 3, "arithmetic is broken");
    println!("no panic");
    exit(Status::Failure)
}

#[panic_handler]
fn panic(panic: &PanicInfo<'_>) -> ! {
    println!("{panic}\nok");
    exit(Status::Success)
}
