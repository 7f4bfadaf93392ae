//! `[test]`: test cases of a file.

use std::collections::BTreeMap;

use vmm_core::spec::Register;

use super::{Context, Key, registers};
use crate::config::address_expr::AddressExpr;
use crate::config::problem::ConfigProblem;
use crate::config::schema::{self, Spanned};
use crate::config::source::Span;
use crate::config::test_plan::{TestCase, TestPlan};

/// Maximum number of test cases of a file, against mistakes.
pub(in crate::config) const MAX_CASES: u64 = 100_000;

/// Lowers the table.
pub(super) fn lower(cx: &mut Context<'_>) -> Option<TestPlan> {
    let raw = cx.document;
    let table = raw.test.as_ref()?;
    let schema::Test { snapshot_at, case, count, index } = &table.value;
    let snapshot_at = snapshot_at.as_ref().and_then(|at| address(cx, at));
    if let (Some(case), Some(count)) = (case, count) {
        let problem =
            ConfigProblem::new(&count.span, "`count` and `[[test.case]]` both say which cases there are");
        cx.problem(problem.related(&case.span, "the first case").help("leave one of them out"));
    }
    if let (Some(index), None) = (index, count) {
        cx.problem(
            ConfigProblem::new(&index.span, "`index` has a meaning with `count` only").help("add `count`"),
        );
    }
    let cases = match (case, count) {
        (Some(case), _) => named(cx, case),
        (None, Some(count)) => {
            if count.value.0 == 0 || count.value.0 > MAX_CASES {
                let message = format!("`{}` is not between 1 and {MAX_CASES}", count.value.0);
                cx.problem(ConfigProblem::new(&count.span, message));
                return None;
            }
            let register = index.as_ref().map_or(Register::Rdi, |at| at.value.register);
            let numbered = |number: u64| TestCase {
                name: number.to_string(),
                registers: vec![(register, number)],
                ..TestCase::default()
            };
            (0..count.value.0).map(numbered).collect()
        }
        (None, None) => vec![TestCase::default()],
    };
    Some(TestPlan { snapshot_at, cases })
}

fn named(cx: &mut Context<'_>, cases: &Spanned<Vec<Spanned<schema::TestCaseTable>>>) -> Vec<TestCase> {
    let mut seen: BTreeMap<&str, &Span> = BTreeMap::new();
    let mut lowered = Vec::new();
    for (number, at) in cases.value.iter().enumerate() {
        let schema::TestCaseTable { name, registers, jump, input } = &at.value;
        let key = Key { path: format!("test.case.{number}.name"), name: "name", example: "name = \"heap\"" };
        let Some(name) = cx.required(name, &at.span, &key) else { continue };
        if let Some(first) = seen.insert(&name.value, &name.span) {
            let problem = ConfigProblem::new(&name.span, format!("there are two cases `{}`", name.value));
            cx.problem(problem.related(first, "the first one"));
        }
        let jump = jump.as_ref().and_then(|at| address(cx, at));
        let registers = registers.as_ref().map(|at| registers::values(cx, &at.value)).unwrap_or_default();
        lowered.push(TestCase {
            name: name.value.clone(),
            registers,
            jump,
            input: input.as_ref().map(|at| at.value.clone()),
        });
    }
    lowered
}

/// Parses a symbol or an address.
fn address(cx: &mut Context<'_>, at: &Spanned<String>) -> Option<AddressExpr> {
    match AddressExpr::parse(&at.value) {
        Ok(place) => Some(place),
        Err(problem) => {
            cx.problem(
                ConfigProblem::new(&at.span, problem.message)
                    .help("write a symbol, symbol+offset or an address"),
            );
            None
        }
    }
}
