//! Any bytes as a kernel: detected, chosen, planned by every protocol, told of a machine. Nothing may panic, hang, or hand
//! over bytes that lie outside of usable memory.
//!
//! Seeds: small kernels, such as `guests/build/multiboot1.bin`, and the first KiBs of a bzImage.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vm_memory::GuestAddress;
use vmm_loader::boot::{MemoryMapEntry, MemoryMapKind, BootModule, BootOptions, Protocol, BootInfo, detect, plan};

const MEMORY: [MemoryMapEntry; 2] = [
    MemoryMapEntry { start: GuestAddress(0), size: 0x9_fc00, kind: MemoryMapKind::Usable },
    MemoryMapEntry { start: GuestAddress(1 << 20), size: 63 << 20, kind: MemoryMapKind::Usable },
];

fuzz_target!(|file: &[u8]| {
    let findings = detect(file);
    let _ = findings.describe();
    let _ = findings.choose().map_err(|error| (error.to_string(), error.help()));
    // The last byte is the size of a module, too.
    let size = file.last().map_or(0, |&last| u64::from(last) << 12);
    let modules = [BootModule { size, command_line: "module" }];
    for protocol in Protocol::ALL {
        let options = BootOptions { address: Some(GuestAddress(1 << 20)), ..BootOptions::default() };
        let Ok(plan) = plan(file, protocol, &options) else { continue };
        let modules = if protocol.takes_boot_info() { modules.as_slice() } else { &[] };
        let boot_info = BootInfo { memory_map: &MEMORY, command_line: "a b", modules, ..BootInfo::default() };
        let Ok(handed) = plan.handoff(file, &boot_info) else { continue };
        for blob in &handed.blobs {
            let end = blob.address.0 + blob.bytes.len() as u64;
            assert!(MEMORY.iter().any(|entry| {
                entry.start <= blob.address && end <= entry.start.0 + entry.size
            }));
        }
        let _ = handed.image.to_string();
    }
});
