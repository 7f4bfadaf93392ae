//! Tests of boot protocols: detection, errors and boot information.

mod bad_kernels;
mod boot_info;
mod boot_properties;
mod detection;
mod samples;
