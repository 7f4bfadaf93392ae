//! A guest in Rust: the same duties as `hello`, and what the language adds to it: formatting and checked results.
//!
//! The target `x86_64-unknown-none` links a static-PIE: a program that can lie anywhere, with relocations that the
//! monitor's loader applies. No linker script and no build script is needed.

#![no_std]
#![no_main]

use vmm_guest::{hypercall, println};

vmm_guest::entry!(main);

/// The answer and where it is left for whoever looks at memory afterwards: just above the real-mode vectors.
const ANSWER: u32 = 42;
const ANSWER_ADDRESS: usize = 0x400;

/// The value returned is in EAX when the vCPU halts.
fn main() -> u32 {
    println!("Hello, world!");

    let mut buffer = [0; 256];
    match hypercall::arguments(&mut buffer) {
        Ok(arguments) => {
            for (index, argument) in arguments.enumerate() {
                println!("argument {index}: {}", argument.to_str().unwrap_or("(not UTF-8)"));
            }
        }
        Err(error) => println!("no arguments: {error}"),
    }

    let place = main as fn() -> u32 as usize as u64;
    match hypercall::translate(place) {
        Ok(physical) => println!("main runs at {place:#x}, which is {physical:#x} in memory"),
        Err(error) => println!("main is nowhere: {error}"),
    }
    println!("nothing is at 0xdead0000: {:?}", hypercall::translate(0xdead_0000));

    let answer = core::ptr::with_exposed_provenance_mut::<u32>(ANSWER_ADDRESS);
    // SAFETY: memory is identity-mapped, the address is aligned and belongs to nobody else in this machine.
    unsafe { answer.write_volatile(ANSWER) };
    ANSWER
}
