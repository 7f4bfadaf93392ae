//! The kernel itself: says hello and ends. Yours begins here.

#![no_std]
#![no_main]

use core::panic::PanicInfo;

use template_kernel::exit::{Status, exit};
use template_kernel::{println, testing};

template_kernel::entry!(main);

fn main() -> ! {
    println!("Hello from a kernel");
    exit(Status::Success)
}

#[panic_handler]
fn panic(panic: &PanicInfo<'_>) -> ! {
    testing::failed(panic)
}
