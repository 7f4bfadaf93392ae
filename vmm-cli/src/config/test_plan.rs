//! `[test]`, lowered: the test cases of a file, and the point at which the machine is copied for each.

use vmm_core::spec::Register;

use crate::config::address_expr::AddressExpr;

/// Test cases of a configuration file, and the point at which they begin.
#[derive(Debug, Clone)]
pub struct TestPlan {
    /// Point at which the machine is copied for each case; `None` if each case begins at the start.
    pub snapshot_at: Option<AddressExpr>,
    /// Test cases to run, at least one.
    pub cases: Vec<TestCase>,
}

/// Test case: changes to the copy of the machine that the case runs.
#[derive(Debug, Clone, Default)]
pub struct TestCase {
    /// Name of the case; empty for the only case of a file that names none.
    pub name: String,
    /// Values of registers that are set before the copy runs.
    pub registers: Vec<(Register, u64)>,
    /// Address at which the copy runs; `None` to continue.
    pub jump: Option<AddressExpr>,
    /// Console input; `None` for the contents of the input file next to the configuration.
    pub input: Option<String>,
}
