//! Any bytes as a kernel: detected, chosen, planned by every protocol, told of a machine. Nothing may panic, hang, or hand
//! over bytes that lie outside of usable memory.
//!
//! Seeds: small kernels, such as `guests/build/multiboot1.bin`, and the first KiBs of a bzImage.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vm_memory::GuestAddress;
use vmm_loader::boot::{MapEntry, MapKind, Module, Options, Protocol, Told, detect, plan};

const MEMORY: [MapEntry; 2] = [
    MapEntry { start: GuestAddress(0), size: 0x9_fc00, kind: MapKind::Usable },
    MapEntry { start: GuestAddress(1 << 20), size: 63 << 20, kind: MapKind::Usable },
];

fuzz_target!(|file: &[u8]| {
    let findings = detect(file);
    let _ = findings.words();
    let _ = findings.choose().map_err(|error| (error.to_string(), error.help()));
    // The last byte is the size of a module, too.
    let size = file.last().map_or(0, |&last| u64::from(last) << 12);
    let modules = [Module { size, command_line: "module" }];
    for protocol in Protocol::ALL {
        let options = Options { address: Some(GuestAddress(1 << 20)), ..Options::default() };
        let Ok(plan) = plan(file, protocol, &options) else { continue };
        let modules = if protocol.tells() { modules.as_slice() } else { &[] };
        let told = Told { memory: &MEMORY, command_line: "a b", modules, ..Told::default() };
        let Ok(handed) = plan.hand_over(file, &told) else { continue };
        for blob in &handed.blobs {
            let end = blob.address.0 + blob.bytes.len() as u64;
            assert!(MEMORY.iter().any(|entry| {
                entry.start <= blob.address && end <= entry.start.0 + entry.size
            }));
        }
        let _ = handed.image.to_string();
    }
});
