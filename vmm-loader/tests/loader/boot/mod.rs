//! Boot protocols from outside: which is chosen, what is refused, what a kernel is handed.

mod bad;
mod choice;
mod handed;
mod kernels;
mod laws;
