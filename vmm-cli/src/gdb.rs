//! `run --gdb`: lets gdb control the guest, with the GDB remote serial protocol.
//!
//! gdbstub implements the protocol and vmm-core the debuggers. `listener.rs` accepts connections, also in a directory of its own
//! (`private_directory.rs`), and `connection.rs` is one of them. `target.rs`, `resume.rs` and `breakpoints.rs` implement
//! gdbstub's traits. `registers.rs` and `target_xml.rs` convert registers, and `monitor.rs` has the `monitor` commands.
//!
//! One gdb at a time. When gdb detaches, the guest runs to its end. When the connection breaks, the guest waits for the
//! next gdb. When gdb kills, the run ends.

mod breakpoints;
mod connection;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod listener;
mod monitor;
mod private_directory;
mod registers;
mod resume;
mod target;
mod target_xml;

use std::io;
use std::path::Path;

use gdbstub::stub::run_blocking::{BlockingEventLoop, Event, WaitForStopReasonError};
use gdbstub::stub::{DisconnectReason, GdbStub};
use vmm_core::debugger::{DebugTarget, Finished, attach};
use vmm_core::kvm_sys_wrap::termination_requested;
use vmm_core::machine::Machine;
use vmm_core::machine::error::Error;
use vmm_core::machine::reserved_vms::ReplayPurpose;
use vmm_core::sandbox::DirectoryUse;
use vmm_loader::ElfClass;

use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::prepare::Files;
use crate::status::Status;
use crate::stderr;
use connection::GdbConnection;
pub(crate) use listener::PRIVATE_SOCKET;
use listener::{GdbStream, Listener};
use target::{Session, StopReason};
use target_xml::RegisterLayout;

/// Error of a debugging session.
pub(crate) enum GdbError {
    /// Error of the machine.
    Machine(Error),
    /// The listening address cannot be used, or this process cannot be confined.
    Diagnosed(Diagnostics),
}

impl From<Error> for GdbError {
    fn from(error: Error) -> Self {
        Self::Machine(error)
    }
}

/// Lets gdb control the machine until its run ends.
///
/// `guest` is the path of its file and the files that were read. `build` builds the machine again in its initial state,
/// without output. `confine` confines this process before gdb connects; its argument are the directories in which the
/// socket is removed.
pub(crate) fn run(
    machine: Machine,
    build: impl Fn() -> Result<Machine, Error>,
    guest: (&Path, &Files),
    address: &str,
    confine: impl FnOnce(&[(&Path, DirectoryUse)]) -> Result<(), Diagnostics>,
) -> Result<Finished, GdbError> {
    let failed = |error: io::Error| {
        let exists = error.kind() == io::ErrorKind::AddrInUse && address.contains('/');
        let reason = if exists { "there is a file already".to_owned() } else { error.to_string() };
        let problem = Diagnostic::error(Status::Host, format!("cannot wait for gdb at {address}: {reason}"));
        GdbError::Diagnosed(problem.with_help(exists.then_some("name another path, or remove it")).into())
    };
    let listener = Listener::open(address).map_err(failed)?;
    let mut debugger = attach(machine, build).map_err(|error| {
        // The probes of the host's debug features run guests, which the signal ends: their result says nothing.
        if termination_requested() {
            return GdbError::Diagnosed(
                Diagnostic::error(Status::Interrupted, "the run was interrupted").into(),
            );
        }
        error.into()
    })?;
    // After the probes of `attach`, whose machines are others.
    let _reserved = debugger.machine().reserve_replays(ReplayPurpose::Debugger)?;
    let (path, files) = guest;
    announce(&listener, &*debugger, path);
    confine(&listener.directories()).map_err(GdbError::Diagnosed)?;
    loop {
        let Some(stream) = listener.accept().map_err(failed)? else { return Ok(debugger.abandon()?) };
        match serve(&mut *debugger, files, stream)? {
            SessionEnd::Finished => return Ok(debugger.abandon()?),
            SessionEnd::Detached => return Ok(debugger.finish()?),
            SessionEnd::Disconnected => {
                if termination_requested() {
                    return Ok(debugger.abandon()?);
                }
                stderr::print_line(format_args!(
                    "gdb: the connection is gone; the guest waits for the next one at {listener}"
                ));
            }
        }
    }
}

/// Prints how to start gdb, and the debug capabilities of this host.
fn announce(listener: &Listener, debugger: &dyn DebugTarget, path: &Path) {
    // gdb derives the width of real-mode code from the class of the file.
    let narrow = !debugger.machine().spec().boot.mode.is_protected();
    let width = if narrow { " -ex 'set architecture i8086'" } else { "" };
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    stderr::print_line(format_args!("gdb: waiting at {listener}"));
    stderr::print_line(format_args!(
        "gdb: start gdb {}{width} -ex 'target remote {listener}'",
        path.display()
    ));
    if let Some(warning) = listener.warning() {
        stderr::print_line(format_args!("warning: gdb: {warning}"));
    }
    stderr::print_line(format_args!("gdb: this host has {}", debugger.capabilities()));
}

/// End of a debugging session.
enum SessionEnd {
    /// The run is over.
    Finished,
    /// gdb detached.
    Detached,
    /// The connection broke.
    Disconnected,
}

fn serve(debugger: &mut dyn DebugTarget, files: &Files, stream: GdbStream) -> Result<SessionEnd, Error> {
    let wide = files.guest().is_some_and(|plan| plan.class() == Some(ElfClass::Elf64));
    let layout = RegisterLayout::from_sregs(&debugger.registers(debugger.current_vcpu())?.sregs, wide);
    let gdb = GdbConnection::new(stream, debugger.interrupt_handle()).map_err(Error::Thread)?;
    let inbox = gdb.inbox();
    debugger.stop_if(Box::new(move || inbox.wants_attention()));
    let mut session = Session::new(debugger, files, layout);
    let result = GdbStub::new(gdb).run_blocking::<EventLoop<'_>>(&mut session);
    session.clear();
    match result {
        Ok(DisconnectReason::Disconnect) => Ok(SessionEnd::Detached),
        Ok(
            DisconnectReason::TargetExited(_)
            | DisconnectReason::TargetTerminated(_)
            | DisconnectReason::Kill,
        ) => Ok(SessionEnd::Finished),
        Err(error) if error.is_target_error() => Err(error.into_target_error().unwrap_or_else(missing_error)),
        Err(error) => {
            if !error.is_connection_error() {
                stderr::print_line(format_args!("gdb: {error}"));
            }
            Ok(SessionEnd::Disconnected)
        }
    }
}

fn missing_error() -> Error {
    Error::Console(io::Error::other("gdb's session failed"))
}

/// Event loop of gdbstub: waits for the guest or for gdb.
struct EventLoop<'a>(std::marker::PhantomData<&'a ()>);

impl<'a> BlockingEventLoop for EventLoop<'a> {
    type Target = Session<'a>;
    type Connection = GdbConnection;
    type StopReason = StopReason;

    fn wait_for_stop_reason(
        session: &mut Session<'a>,
        gdb: &mut GdbConnection,
    ) -> Result<Event<StopReason>, WaitForStopReasonError<Error, io::Error>> {
        use gdbstub::conn::ConnectionExt;
        loop {
            if gdb.peek().map_err(WaitForStopReasonError::Connection)?.is_some() {
                let byte = gdb.read().map_err(WaitForStopReasonError::Connection)?;
                return Ok(Event::IncomingData(byte));
            }
            if let Some(reason) = session.resume_until_stop().map_err(WaitForStopReasonError::Target)? {
                return Ok(Event::TargetStopped(reason));
            }
        }
    }

    fn on_interrupt(session: &mut Session<'a>) -> Result<Option<StopReason>, Error> {
        Ok(Some(session.interrupted()))
    }
}
