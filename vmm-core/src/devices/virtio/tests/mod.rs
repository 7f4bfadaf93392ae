//! Virtio devices with a driver that the tests control step by step.

#![expect(clippy::cast_possible_truncation, reason = "the numbers of tests are small, or cut on purpose")]

mod block;
mod console;
mod driver;
mod entropy;
mod hostile;
mod properties;
mod repeatable;
mod transport;
