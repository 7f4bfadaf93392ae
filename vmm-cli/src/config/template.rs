//! The file that `vmm-cli init` writes: a machine that runs, with every other key beside it in a comment.

/// The text.
#[must_use]
pub const fn text() -> &'static str {
    include_str!("template.toml")
}
