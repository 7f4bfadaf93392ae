//! Pages of zeros, which no copy of a memory needs to have.

use std::ops::Range;

const PAGE: usize = 4096;

/// The stretches of whole pages that are not all zeros, as offsets in `chunk`.
#[must_use]
pub fn stretches(chunk: &[u8]) -> Vec<Range<usize>> {
    let mut stretches: Vec<Range<usize>> = Vec::new();
    for (index, page) in chunk.chunks(PAGE).enumerate() {
        if page.iter().all(|byte| *byte == 0) {
            continue;
        }
        let start = index * PAGE;
        let end = start + page.len();
        match stretches.last_mut() {
            Some(last) if last.end == start => last.end = end,
            Some(_) | None => stretches.push(start..end),
        }
    }
    stretches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_zeros_are_left_out() {
        let mut chunk = vec![0; 5 * PAGE];
        assert!(stretches(&chunk).is_empty());
        (chunk[PAGE], chunk[3 * PAGE - 1], chunk[5 * PAGE - 1]) = (1, 1, 1);
        assert_eq!(stretches(&chunk), [PAGE..3 * PAGE, 4 * PAGE..5 * PAGE]);
    }
}
