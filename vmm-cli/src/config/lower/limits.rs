//! `[limits]`: time and number of exits at which the guest is stopped.

use std::time::Duration;

use vmm_core::spec::LimitSpec;

use super::Context;
use crate::config::problem::ConfigProblem;

/// Default time limit of a file with `[expect]` or `[test]`, so that a test with a hung guest ends.
const DEFAULT_TEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Lowers the table.
pub(super) fn lower(cx: &mut Context<'_>) -> LimitSpec {
    let is_test = cx.document.expect.is_some() || cx.document.test.is_some();
    let default_time = is_test.then_some(DEFAULT_TEST_TIMEOUT);
    let Some(table) = &cx.document.limits else { return LimitSpec { time: default_time, exits: None } };
    let time = table.value.time.as_ref().map(|at| {
        if at.value.0.is_zero() {
            let problem = ConfigProblem::new(&at.span, "a time limit of 0 stops the guest before it starts");
            cx.problem(problem.help("leave `time` out for no limit"));
        }
        at.value.0
    });
    let exits = table.value.exits.as_ref().map(|at| {
        if at.value.0 == 0 {
            let problem = ConfigProblem::new(&at.span, "an exit limit of 0 stops the guest before it starts");
            cx.problem(problem.help("leave `exits` out for no limit"));
        }
        at.value.0
    });
    LimitSpec { time: time.or(default_time), exits }
}
