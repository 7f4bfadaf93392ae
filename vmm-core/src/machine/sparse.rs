//! Search for pages that are not zeros: copies of memory leave the others out.

use std::ops::Range;

const PAGE: usize = 4096;

/// Returns the runs of whole pages that are not all zeros, as offsets in `chunk`.
#[must_use]
pub fn nonzero_runs(chunk: &[u8]) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for (index, page) in chunk.chunks(PAGE).enumerate() {
        if page.iter().all(|byte| *byte == 0) {
            continue;
        }
        let start = index * PAGE;
        let end = start + page.len();
        match runs.last_mut() {
            Some(last) if last.end == start => last.end = end,
            Some(_) | None => runs.push(start..end),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_zeros_are_left_out() {
        let mut chunk = vec![0; 5 * PAGE];
        assert!(nonzero_runs(&chunk).is_empty());
        (chunk[PAGE], chunk[3 * PAGE - 1], chunk[5 * PAGE - 1]) = (1, 1, 1);
        assert_eq!(nonzero_runs(&chunk), [PAGE..3 * PAGE, 4 * PAGE..5 * PAGE]);
    }
}
