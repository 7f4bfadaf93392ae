//! Fuzz target: any bytes as a kernel, through detection, plan and boot information of each protocol.
//!
//! Checks that there is no panic and no endless loop, and that all boot structures lie in usable memory. Good seeds are small
//! kernels, such as `guests/build/multiboot1.bin`, and the first KiBs of a bzImage.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vm_memory::GuestAddress;
use vmm_loader::boot::{BootInfo, BootModule, BootOptions, MemoryMapEntry, Protocol, detect, plan};

const MEMORY: [MemoryMapEntry; 2] = [
    MemoryMapEntry::usable(GuestAddress(0), 0x9_fc00),
    MemoryMapEntry::usable(GuestAddress(1 << 20), 63 << 20),
];

fuzz_target!(|file: &[u8]| {
    let detection = detect(file);
    let _ = detection.describe();
    let _ = detection.choose().map_err(|error| (error.to_string(), error.help()));
    // The last byte of the file also selects the size of a module.
    let size = file.last().map_or(0, |&last| u64::from(last) << 12);
    let modules = [BootModule::new(size, "module")];
    for &protocol in Protocol::ALL {
        let options = BootOptions::default().with_address(GuestAddress(1 << 20));
        let Ok(plan) = plan(file, protocol, &options) else { continue };
        let modules = if protocol.takes_boot_info() { modules.as_slice() } else { &[] };
        let boot_info = BootInfo::new(&MEMORY).with_command_line("a b").with_modules(modules);
        let Ok(handoff) = plan.handoff(file, &boot_info) else { continue };
        for blob in &handoff.blobs {
            let end = blob.address.0 + blob.bytes.len() as u64;
            assert!(MEMORY.iter().any(|entry| entry.start <= blob.address && end <= entry.end().0));
        }
        let _ = handoff.image.to_string();
    }
});
