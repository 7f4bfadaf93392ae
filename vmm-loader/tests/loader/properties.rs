//! Properties of every file, including malformed ones: no panic, no read outside the file, no write outside the plan.

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};
use vmm_loader::{Bss, ElfOptions, elf, flat};

use crate::elf_properties::{check, check_plan, with_patterned_memory};
use crate::image::{
    Bits::{self, B32, B64},
    DF_1_PIE, DT_FLAGS_1, DT_RELR, DT_RELRSZ, Image,
};

fn bits() -> impl Strategy<Value = Bits> {
    prop_oneof![Just(B32), Just(B64)]
}

fn good_file() -> impl Strategy<Value = Vec<u8>> {
    let image = prop_oneof![
        bits().prop_map(Image::program),
        (bits(), 0_u64..8).prop_map(|(bits, words)| Image::pie(bits, words)),
    ];
    image.prop_map(|image| image.build())
}

/// Values at which arithmetic overflows, small values that keep a file nearly valid, and any other values.
fn value() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        0_u64..64,
        (0_u32..64, -2_i64..3).prop_map(|(shift, near)| (1_u64 << shift).wrapping_add_signed(near)),
        (0_u64..0x40).prop_map(|step| step * 0x100),
    ]
}

/// Little-endian value of 1, 2, 4 or 8 bytes, for an offset that is mostly in the headers.
fn patch() -> impl Strategy<Value = (prop::sample::Index, bool, usize, u64)> {
    (any::<prop::sample::Index>(), any::<bool>(), 0_usize..4, value())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mutated_files_do_no_harm(
        good in good_file(),
        patches in prop::collection::vec(patch(), 1..6),
        cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
        base in prop::option::of((0_u64..0x20).prop_map(|step| step * 0x1000)),
    ) {
        let mut file = good;
        for (at, anywhere, width, value) in patches {
            let start = at.index(if anywhere { file.len() } else { 0x100 });
            let end = file.len().min(start + (1 << width));
            file[start..end].copy_from_slice(&value.to_le_bytes()[..end - start]);
        }
        if let Some(cut) = cut {
            file.truncate(cut.index(file.len()));
        }
        check(&file, base.map(GuestAddress));
    }

    #[test]
    fn random_bytes_after_a_valid_e_ident_do_no_harm(
        bits in bits(),
        kind in 2_u8..4,
        bytes in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        let mut file = Image::empty(bits).build()[..24].to_vec();
        file[16] = kind;
        file.extend(bytes);
        check(&file, None);
    }

    #[test]
    fn relocated_words_hold_base_plus_addend(bits in bits(), words in 0_u64..40, step in 0_u64..0x400) {
        let base = step * 16;
        let image = Image::pie(bits, words);
        let file = image.build();
        let plan = elf::plan(&file, &ElfOptions::default().with_base(Some(GuestAddress(base)))).unwrap();
        check_plan(&plan, &file);
        with_patterned_memory(|memory| {
            plan.load(&file, memory, Bss::AlreadyZero).unwrap();
            for index in 0..words {
                let mut word = [0; 8];
                let width = usize::try_from(bits.size()).unwrap();
                let address = GuestAddress(base + 0x1000 + index * bits.size());
                memory.read_slice(&mut word[..width], address).unwrap();
                prop_assert_eq!(u64::from_le_bytes(word), base + 0x10);
            }
            Ok(())
        })?;
    }

    #[test]
    fn packed_tables_decode_to_the_words_that_were_encoded(
        bits in bits(),
        words in prop::collection::btree_set(0_u64..300, 0..80),
    ) {
        let size = bits.size();
        let wanted: Vec<u64> = words.iter().map(|word| 0x1000 + word * size).collect();
        let table: Vec<u8> = pack(bits, &wanted).into_iter().flat_map(|entry| bits.word(entry)).collect();
        let mut image = Image::pie(bits, 0);
        let table_at = 0x1000 + 300 * size;
        let mut data = vec![0; usize::try_from(300 * size).unwrap()];
        let table_size = table.len() as u64;
        data.extend(table);
        (image.phdrs[1].filesz, image.phdrs[1].memsz) = (data.len() as u64, data.len() as u64);
        image.data[1].1 = data;
        image.dynamic(0x8000, &[(DT_FLAGS_1, DF_1_PIE), (DT_RELR, table_at), (DT_RELRSZ, table_size)]);
        let plan = elf::plan(&image.build(), &ElfOptions::default().with_base(Some(GuestAddress(0x2000)))).unwrap();
        let found: Vec<u64> = plan.relocations().iter().map(|relocation| relocation.target.0 - 0x2000).collect();
        prop_assert_eq!(found, wanted);
    }

    #[test]
    fn a_plan_fits_if_memory_has_each_byte(
        regions in prop::collection::vec((0_u64..64, 0_u64..24), 0..5),
        start in 0_u64..64,
        length in 1_usize..24,
    ) {
        let plan = flat::plan(&vec![0; length], GuestAddress(start)).unwrap();
        let ranges: Vec<_> = regions.iter().map(|&(start, size)| GuestAddress(start)..GuestAddress(start + size)).collect();
        let has = |address| ranges.iter().any(|range| range.contains(&GuestAddress(address)));
        let all = (start..).take(length).all(has);
        prop_assert_eq!(plan.check_fits(&ranges).is_ok(), all);
    }
}

/// Encodes sorted addresses as a linker does for DT_RELR.
fn pack(bits: Bits, addresses: &[u64]) -> Vec<u64> {
    let (size, in_bitmap) = (bits.size(), bits.size() * 8 - 1);
    let mut entries = Vec::new();
    let mut rest = addresses.iter().copied().peekable();
    while let Some(address) = rest.next() {
        entries.push(address);
        let mut base = address + size;
        loop {
            let mut bitmap = 0;
            while let Some(next) = rest.next_if(|next| next - base < in_bitmap * size) {
                bitmap |= 1 << ((next - base) / size);
            }
            if bitmap == 0 {
                break;
            }
            entries.push(bitmap << 1 | 1);
            base += in_bitmap * size;
        }
    }
    entries
}

/// Makes sure that the files before mutation can be loaded, without which the properties would prove little.
#[test]
fn unmutated_files_pass_the_same_checks() {
    for bits in [B32, B64] {
        assert!(check(&Image::program(bits).build(), None));
        assert!(check(&Image::pie(bits, 5).build(), None));
        assert!(check(&Image::pie(bits, 5).build(), Some(GuestAddress(0x2000))));
    }
}
