//! Selection of a small corpus: few inputs that together have most of the coverage of all.
//!
//! libFuzzer's merge writes for each input the features of its coverage to a control file (`FuzzerMerge.h`): the number of inputs,
//! the number of those in the first directory, their paths, and for each input lines `STARTED index size` and
//! `FT index feature...`. Its own choice has every feature, and so hundreds of inputs.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::failure::{FileContext, Result};

/// Maximum number of inputs in a corpus of the repository.
const MAX_INPUTS: usize = 40;
/// Maximum size of an input in bytes.
const MAX_INPUT_SIZE: u64 = 12 << 10;
/// Maximum size of a corpus in bytes.
const MAX_SIZE: u64 = 30 << 10;

/// Input of a merge.
struct MergedInput {
    path: PathBuf,
    size: u64,
    features: Vec<u64>,
}

/// Returns the inputs to keep: each the one that adds most features by its size, until the corpus is full.
pub(super) fn select(control: &str) -> Vec<PathBuf> {
    let mut inputs: Vec<MergedInput> =
        inputs(control).into_iter().filter(|input| input.size <= MAX_INPUT_SIZE).collect();
    let (mut covered, mut chosen, mut size) = (HashSet::new(), Vec::new(), 0);
    while chosen.len() < MAX_INPUTS {
        inputs.retain(|input| size + input.size <= MAX_SIZE);
        // Each input costs something, also an empty one.
        let gain = |input: &MergedInput| {
            let new = input.features.iter().filter(|feature| !covered.contains(*feature)).count();
            u64::try_from(new).unwrap_or(u64::MAX).saturating_mul(1 << 20) / (input.size + 256)
        };
        let best = inputs.iter().enumerate().max_by_key(|(index, input)| (gain(input), usize::MAX - index));
        let Some((index, _)) = best.filter(|(_, input)| gain(input) > 0) else { break };
        let MergedInput { path, size: own, features } = inputs.swap_remove(index);
        covered.extend(features);
        size += own;
        chosen.push(path);
    }
    chosen
}

/// Parses a control file.
fn inputs(control: &str) -> Vec<MergedInput> {
    let mut lines = control.lines();
    let count = lines.next().and_then(|line| line.parse::<usize>().ok()).unwrap_or(0);
    // The number of inputs in the first directory.
    lines.next();
    let paths: Vec<&str> = lines.by_ref().take(count).collect();
    let (mut sizes, mut features) = (HashMap::new(), HashMap::new());
    for line in lines {
        let mut words = line.split_ascii_whitespace();
        let kind = words.next();
        let mut numbers = words.map_while(|word| word.parse::<u64>().ok());
        let Some(index) = numbers.next().and_then(|index| usize::try_from(index).ok()) else { continue };
        match kind {
            Some("STARTED") => {
                sizes.extend(numbers.next().map(|size| (index, size)));
            }
            Some("FT") => {
                features.insert(index, numbers.collect::<Vec<_>>());
            }
            Some(_) | None => {}
        }
    }
    let input = |(index, path): (usize, &str)| {
        Some(MergedInput { path: path.into(), size: *sizes.get(&index)?, features: features.remove(&index)? })
    };
    paths.into_iter().enumerate().filter_map(input).collect()
}

/// Makes `inputs` the corpus in `directory`, under the names that they have.
pub(super) fn replace(directory: &Path, inputs: &[PathBuf]) -> Result<()> {
    let mut contents = Vec::new();
    for path in inputs {
        contents.push((path.file_name().unwrap_or_default(), fs::read(path).while_doing("read", path)?));
    }
    if directory.is_dir() {
        fs::remove_dir_all(directory).while_doing("remove", directory)?;
    }
    fs::create_dir_all(directory).while_doing("create", directory)?;
    for (name, bytes) in contents {
        let path = directory.join(name);
        fs::write(&path, bytes).while_doing("write", &path)?;
    }
    Ok(())
}

/// Returns the number and the total size of the files in a directory, which may be missing.
pub(super) fn size(directory: &Path) -> Result<(usize, u64)> {
    let (mut count, mut size) = (0, 0_u64);
    if directory.is_dir() {
        for entry in directory.read_dir().while_doing("list", directory)? {
            let metadata = entry.and_then(|entry| entry.metadata()).while_doing("look at", directory)?;
            (count, size) = (count + 1, size.saturating_add(metadata.len()));
        }
    }
    Ok((count, size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_that_add_most_are_kept() {
        let control = "4\n0\na\nb\nc\nd\nSTARTED 0 10\nFT 0 1 2 3\nCOV 0 7\nSTARTED 1 10\nFT 1 1 2\n\
                       STARTED 2 20\nFT 2 3 4 5 6\nSTARTED 3 100000\nFT 3 1 2 3 4 5 6 7 8 9\n";
        let chosen = select(control);
        // `d` is too large. After `c`, `a` and `b` add the same, and `a` comes first.
        assert_eq!(chosen, ["c", "a"].map(PathBuf::from));
        assert!(select("").is_empty());
    }

    #[test]
    fn a_corpus_is_replaced_and_counted() {
        let directory = tempfile::tempdir().unwrap();
        let (own, new) = (directory.path().join("own"), directory.path().join("new"));
        assert_eq!(size(&own).unwrap(), (0, 0));
        fs::create_dir(&own).unwrap();
        fs::write(own.join("old"), "12").unwrap();
        fs::write(&new, "345").unwrap();
        replace(&own, &[new, own.join("old")]).unwrap();
        assert_eq!(size(&own).unwrap(), (2, 5));
        replace(&own, &[own.join("old")]).unwrap();
        assert_eq!(size(&own).unwrap(), (1, 2));
    }
}
