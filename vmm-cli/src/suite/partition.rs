//! `--partition 2/8`: selects one of several parts of a suite, so that several machines can share it.
//!
//! As in cargo-nextest. By count, the cases are dealt out one by one, so the sizes of parts differ by at most one. By
//! hash, the part of a case depends on its name alone, so it does not change when other cases are added or removed.

use std::str::FromStr;

/// Part number and number of parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Partition {
    /// Part number, from 0.
    part: u64,
    of: u64,
    by: PartitionMethod,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PartitionMethod {
    Count,
    Hash,
}

impl Partition {
    /// Returns true if the part has the case with this name, which is number `index` of the selected cases.
    pub(crate) fn contains(self, index: usize, name: &str) -> bool {
        let part = match self.by {
            PartitionMethod::Count => u64::try_from(index).unwrap_or(u64::MAX) % self.of,
            PartitionMethod::Hash => scale(hash(name), self.of),
        };
        part == self.part
    }
}

/// Returns a hash that is the same on every machine and in every version: FNV-1a, and the finalizer of MurmurHash3,
/// since FNV alone mixes the last letters too little.
fn hash(name: &str) -> u64 {
    let mut hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    for factor in [0xff51_afd7_ed55_8ccd_u64, 0xc4ce_b9fe_1a85_ec53] {
        hash = (hash ^ (hash >> 33)).wrapping_mul(factor);
    }
    hash ^ (hash >> 33)
}

/// Scales a 64-bit value to `0..of`.
pub(super) fn scale(value: u64, of: u64) -> u64 {
    let scaled = (u128::from(value) * u128::from(of)) >> 64;
    // Smaller than `of`.
    u64::try_from(scaled).unwrap_or_default()
}

impl FromStr for Partition {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (by, numbers) = match text.split_once(':') {
            None => (PartitionMethod::Count, text),
            Some(("count", numbers)) => (PartitionMethod::Count, numbers),
            Some(("hash", numbers)) => (PartitionMethod::Hash, numbers),
            Some((word, _)) => {
                return Err(format!("parts are made by `count` or by `hash`, not by `{word}`"));
            }
        };
        let number = |text: &str| text.parse::<u64>().ok();
        let numbers = numbers.split_once('/').and_then(|(part, of)| Some((number(part)?, number(of)?)));
        match numbers {
            Some((part, of)) if part >= 1 && part <= of => Ok(Self { part: part - 1, of, by }),
            Some((part, of)) => Err(format!("there is no part {part} of {of}: parts are counted from 1")),
            None => Err("expected a part, such as `2/8` or `hash:2/8`".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn parts_are_read_and_wrong_ones_refused() {
        assert_eq!("2/8".parse(), Ok(Partition { part: 1, of: 8, by: PartitionMethod::Count }));
        assert_eq!("count:2/8".parse::<Partition>(), "2/8".parse());
        assert_eq!("hash:8/8".parse(), Ok(Partition { part: 7, of: 8, by: PartitionMethod::Hash }));
        for wrong in ["", "2", "0/8", "9/8", "a/8", "2/", "slice:2/8", "1/0", "-1/2"] {
            assert!(wrong.parse::<Partition>().is_err(), "{wrong}");
        }
    }

    /// These values must not change: machines that share a suite may run different versions.
    #[test]
    fn the_hash_never_changes() {
        assert_eq!(hash(""), 0xefd0_1f60_ba99_2926);
        let parts = ["configs/long.toml", "configs/pae.toml", "a.toml[mode=long]"].map(|name| {
            (1..=8).find(|part| format!("hash:{part}/8").parse::<Partition>().unwrap().contains(0, name))
        });
        assert_eq!(parts, [Some(8), Some(5), Some(8)]);
    }

    #[test]
    fn similar_names_are_spread() {
        let names: Vec<String> = (0..1000).map(|number| format!("case-{number:04}.toml")).collect();
        for part in 1..=8 {
            let partition: Partition = format!("hash:{part}/8").parse().unwrap();
            let count =
                names.iter().enumerate().filter(|(index, name)| partition.contains(*index, name)).count();
            assert!((90..=160).contains(&count), "{count} of 1000 in part {part}");
        }
    }

    proptest! {
        #[test]
        fn each_case_is_in_exactly_one_part(
            names in prop::collection::vec(".{0,20}", 0..50),
            of in 1_u64..20,
            by in prop::sample::select(vec!["count", "hash"]),
        ) {
            let parts: Vec<Partition> = (1..=of).map(|part| format!("{by}:{part}/{of}").parse().unwrap()).collect();
            let mut sizes = vec![0_usize; parts.len()];
            for (index, name) in names.iter().enumerate() {
                let holding: Vec<usize> = (0..parts.len()).filter(|part| parts[*part].contains(index, name)).collect();
                prop_assert_eq!(holding.len(), 1);
                sizes[holding[0]] += 1;
            }
            let spread = sizes.iter().max().unwrap() - sizes.iter().min().unwrap();
            prop_assert!(by == "hash" || spread <= 1);
        }

        #[test]
        fn by_hash_a_case_stays_where_it_is(name in ".*", one in 0_usize..1000, other in 0_usize..1000, part in 1_u64..9) {
            let partition: Partition = format!("hash:{part}/8").parse().unwrap();
            prop_assert_eq!(partition.contains(one, &name), partition.contains(other, &name));
        }
    }
}
