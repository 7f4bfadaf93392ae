//! Formats what page tables map as a table, for `pages` and gdb's `monitor pages`.

use vmm_core::paging::merge::MappedRange;
use vmm_core::paging::walk::describe_permissions;
use vmm_core::spec::gpa_range::ByteSize;

use crate::table;

/// Appends a row for each range to `text`. `truncated` is true if there are more of them.
pub(crate) fn append(text: &mut String, ranges: &[MappedRange], truncated: bool) {
    let mut rows = vec![["virtual", "physical", "size", "pages", "access"].map(str::to_owned)];
    rows.extend(ranges.iter().map(|range| {
        [
            range.addresses(),
            range.gpa.to_string(),
            ByteSize(range.bytes()).to_string(),
            format!("{} x {}", range.count, range.size),
            describe_permissions(range.access),
        ]
    }));
    table::append(text, &rows);
    if truncated {
        text.push_str("and more: the tables seem to point at themselves\n");
    }
}
