//! Page tables of a higher-half kernel, computed and walked without KVM.
//!
//! `cargo run -p vmm-core --example page_tables`
#![forbid(unsafe_code)]

use std::error::Error;

use vmm_core::cpu::reset_state;
use vmm_core::initial_state::{HostQuirks, initial_state};
use vmm_core::layout;
use vmm_core::paging::merge::mappings;
use vmm_core::paging::walk::Walker;
use vmm_core::spec::mode::Mode;
use vmm_core::spec::{EntryPoint, MachineSpec, Mapping, PagePermissions};
use vmm_core::{Gpa, Gva};

fn main() -> Result<(), Box<dyn Error>> {
    let upper_half = Gva(0xffff_ffff_8000_0000);
    let mut spec = MachineSpec::new(Mode::Long, 4 << 20, EntryPoint::Address(upper_half));
    spec.boot.paging.maps.push(Mapping {
        gva: upper_half,
        gpa: Gpa(0),
        size: 2 << 20,
        access: PagePermissions { writable: true, user: false, executable: true },
    });
    let layout = layout::compute(&spec, &[])?;
    let state = initial_state(&reset_state::sregs(), &spec, &layout, HostQuirks::default())?;
    println!("CR3 {:#x}, CR4 {:#x}, EFER {:#x}", state.sregs.cr3, state.sregs.cr4, state.sregs.efer);

    // The images are the bytes that a machine would write into guest memory.
    let memory = &state.images[..];
    let walker = Walker::from_sregs(&state.sregs);
    for range in mappings(&walker, memory).ranges {
        println!("{range}");
    }
    let walk = walker.walk(memory, Gva(upper_half.0 + 0x1234));
    assert_eq!(walk.translation().map(|to| to.gpa), Some(Gpa(0x1234)));
    Ok(())
}

#[test]
fn the_example_runs() {
    main().unwrap();
}
