//! Boot protocols from outside: which is chosen, what is refused, what a kernel is handed.

mod bad_kernels;
mod boot_info;
mod boot_properties;
mod detection;
mod samples;
