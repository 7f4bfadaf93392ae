//! The loader from outside: files go in, plans, messages and guest memory come out.
#![cfg(test)]

mod bad_elfs;
mod boot;
mod golden;
mod image;
mod plans;
mod properties;
