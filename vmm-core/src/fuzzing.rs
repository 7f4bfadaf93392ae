//! Properties that coverage-guided fuzzing checks. With the cargo feature `fuzzing`, and in the tests of this crate.
//!
//! Each function takes any bytes and panics if a property does not hold. `vmm-core/fuzz` has a target for each
//! (`cargo xtask fuzz`); a test calls each with the files of its corpus.
//!
//! | function | bytes | properties |
//! |---|---|---|
//! | [`virtio`] | driver of a disk, a terminal or a source of random numbers: registers, rings, buffers | memory that is read-only to the guest and the image do not change; a device that stopped does nothing until its reset; saved state restores |
//! | [`device_state`] | saved state of any device, then accesses | a refused state changes nothing; an accepted one is saved as it was restored, and the device works |
//! | [`registers`] | accesses to all registers of a PC without time and random numbers | saved state restores all that a guest can see |
//! | [`serial`] | accesses to a 16550 with input | output, input and line status are those of a simple model |
//! | [`rtc`] | accesses to the clock | time and date are valid in the format that the guest chose; other registers keep what was written |
//! | [`irqchip`] | accesses to the interrupt controllers of this process, lines, times; or a saved state and these | time never goes back; what is due next is to come; an interrupt is taken if and only if one is pending; saved state restores |

mod board;
#[cfg(test)]
mod corpus;
mod device_state;
mod input;
mod irqchip;
mod registers;
mod rtc;
mod serial;
mod virtio;

pub use device_state::device_state;
pub use irqchip::irqchip;
pub use registers::registers;
pub use rtc::rtc;
pub use serial::serial;
pub use virtio::virtio;

#[cfg(test)]
mod tests {
    #[test]
    fn properties_hold_for_each_corpus() {
        super::corpus::check(&[
            ("virtio", super::virtio),
            ("device_state", super::device_state),
            ("registers", super::registers),
            ("serial", super::serial),
            ("rtc", super::rtc),
            ("irqchip", super::irqchip),
        ]);
    }
}
