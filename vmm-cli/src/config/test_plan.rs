//! What `[test]` asks for: where the guest is copied, and what each copy does.

use vmm_core::spec::Register;

use crate::address_expr::AddressExpr;

/// The cases of a file.
#[derive(Debug, Clone)]
pub struct TestPlan {
    /// Where the machine is copied for each case; `None`: each begins at the start.
    pub snapshot_at: Option<AddressExpr>,
    /// The cases, at least one.
    pub cases: Vec<TestCase>,
}

/// What is different in a case.
#[derive(Debug, Clone, Default)]
pub struct TestCase {
    /// Its name; empty for the only one of a file that names none.
    pub name: String,
    /// Registers that are set before it goes on.
    pub registers: Vec<(Register, u64)>,
    /// Where it goes on.
    pub jump: Option<AddressExpr>,
    /// What arrives on the console; `None`: what the file beside the configuration holds.
    pub input: Option<String>,
}
