//! Configuration that `vmm-cli init` writes: a complete machine, with every other key in a comment.

/// Returns the text of the configuration.
#[must_use]
pub const fn text() -> &'static str {
    include_str!("template.toml")
}
