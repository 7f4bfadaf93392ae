//! The devices, driven by hand.

mod block;
mod console;
mod driver;
mod entropy;
mod hostile;
mod properties;
mod transport;
