//! What the tests of several chips share.

pub(super) mod kernel_chips;
mod machine;
pub(super) mod random;
mod status;
