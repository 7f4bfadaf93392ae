//! Start of the threads of a machine. A thread confines itself first, if the process is confined ([`crate::sandbox`]).

use std::thread::{Builder, Scope};

use super::StopBarrier;
use crate::machine::error::Error;
use crate::sandbox::enter_thread;
use crate::sandbox::system_calls::ThreadKind;

/// Starts a thread that runs `body`. If that fails, it stops all vCPUs with [`Error::Thread`].
pub(crate) fn spawn<'scope, 'env, T: Send>(
    scope: &'scope Scope<'scope, 'env>,
    kind: ThreadKind,
    barrier: &'scope StopBarrier<Result<T, Error>>,
    body: impl FnOnce() + Send + 'scope,
) {
    let confined = move || match enter_thread(kind) {
        Ok(()) => body(),
        Err(error) => barrier.stop_with(Err(Error::Thread(error))),
    };
    let started = Builder::new().name(kind.name().to_owned()).spawn_scoped(scope, confined);
    if let Err(error) = started {
        barrier.stop_with(Err(Error::Thread(error)));
    }
}
