//! Builds guests, runs tests, runs on the nested host, checks tidiness.
#![forbid(unsafe_code)]
fn main() {}
