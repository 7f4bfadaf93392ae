//! Runs a guest up to a stop point, for the subcommands `translate`, `pages`, `dump` and `snapshot`.
//!
//! The guest runs with the input and limits of `run`. Its output is discarded, or shown on standard error. It is an
//! error if the guest ends before the stop point.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueHint};
use vmm_core::cpu::control_regs::Cr0;
use vmm_core::debugger::run_until::run_until;
use vmm_core::devices::console::{Console, Output};
use vmm_core::kvm_sys_wrap::{Kvm, install_termination_handlers};
use vmm_core::machine::Machine;
use vmm_core::machine::end::{End, Verdict};
use vmm_core::machine::error::Error;
use vmm_core::machine::reserved_vms::ReplayPurpose;
use vmm_core::machine::stop_point::StopPoint;
use vmm_core::sandbox::system_calls::Features;
use vmm_core::{Gpa, Gva};
use vmm_loader::VirtAddr;

use crate::config::Config;
use crate::config::address_expr::{AddressBase, AddressExpr};
use crate::config::values::{ParseError, Time};
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::machine_error::machine_error;
use crate::options::OverrideArgs;
use crate::output_file::OutputFile;
use crate::prepare::{Files, Prepared};
use crate::sandbox::SandboxArgs;
use crate::status::Status;
use crate::terminal::StdinInput;

/// The instruction pointer after a reset (SDM vol. 3, table 9-1).
const RESET_RIP: u64 = 0xfff0;

const STOP_POINT: &str = "Stop point [default: before the first instruction]";

/// Point at which the guest is stopped.
#[derive(Debug, Args)]
pub(crate) struct StopAt {
    /// Stop when the guest first reaches this symbol, symbol+offset or address
    #[arg(long, help_heading = STOP_POINT, value_name = "PLACE", conflicts_with_all = ["exits", "after", "end"])]
    pub(crate) at: Option<String>,
    /// Stop after this many exits
    #[arg(long, help_heading = STOP_POINT, value_name = "N", conflicts_with_all = ["after", "end"])]
    pub(crate) exits: Option<u64>,
    /// Stop after this time, such as 500ms or 10s
    #[arg(long, help_heading = STOP_POINT, value_name = "TIME", conflicts_with = "end", value_parser = duration)]
    pub(crate) after: Option<Duration>,
    /// Stop at the end of the run, for any reason
    #[arg(long, help_heading = STOP_POINT)]
    pub(crate) end: bool,
    /// Show the guest's output on standard error
    #[arg(long, help_heading = STOP_POINT)]
    pub(crate) show_output: bool,
}

fn duration(text: &str) -> Result<Duration, ParseError> {
    text.parse().map(|Time(time)| time)
}

/// Options of subcommands that inspect a stopped guest.
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// Configuration
    #[arg(value_hint = ValueHint::FilePath)]
    pub(crate) config: PathBuf,
    #[command(flatten)]
    pub(crate) overrides: OverrideArgs,
    #[command(flatten)]
    pub(crate) stop: StopAt,
    #[command(flatten)]
    pub(crate) sandbox: SandboxArgs,
}

/// Needs of a subcommand after the guest has run.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct InspectNeeds<'a> {
    /// Features that the subcommand uses.
    pub(crate) features: Features,
    /// Files that are not complete yet.
    pub(crate) outputs: &'a [&'a OutputFile],
}

/// Guest that was stopped, or has not started.
pub(crate) struct InspectedGuest {
    pub(crate) config: Config,
    pub(crate) files: Files,
    pub(crate) machine: Machine,
    /// Description of the stop point, such as `at the start`.
    pub(crate) point: String,
    /// End of the run, if it ended.
    pub(crate) end: Option<End>,
}

/// Address that an expression of the command line resolves to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ResolvedAddress {
    /// Address. Symbols are always virtual.
    pub(crate) address: u64,
    /// True if a symbol was named.
    pub(crate) by_symbol: bool,
    /// Bytes from the address to the end of the symbol; 0 if unknown.
    pub(crate) size: u64,
}

impl InspectedGuest {
    /// Builds the machine and runs it to the stop point.
    ///
    /// # Errors
    /// Any error of `run`, or the guest ended before the stop point.
    pub(crate) fn new(args: &InspectArgs, needs: InspectNeeds<'_>) -> Result<Self, Diagnostics> {
        let output = if args.stop.show_output { Output::new(io::stderr()) } else { Output::new(io::sink()) };
        Self::with_output(args, needs, output)
    }

    /// Builds the machine and runs it to the stop point, with the guest's output to `output`.
    ///
    /// # Errors
    /// See [`InspectedGuest::new`].
    pub(crate) fn with_output(
        args: &InspectArgs,
        needs: InspectNeeds<'_>,
        output: Output,
    ) -> Result<Self, Diagnostics> {
        let config = Config::load(&args.config, &args.overrides.to_overrides())?;
        let Prepared { machine: spec, files, .. } = Prepared::new(&config)?;
        let (point, words) = point(&args.stop, &files)?;

        let console = Console { output, input: Box::new(StdinInput::default()), input_fd: None };
        let host = |error: Error| Diagnostics::from(machine_error(&config, &error));
        let kvm = Kvm::open().map_err(|error| host(error.into()))?;
        install_termination_handlers().map_err(|error| host(error.into()))?;
        let machine = Machine::build(&kvm, spec, &files, console).map_err(host)?;
        let directories = needs.outputs.iter().filter_map(|file| file.directory());
        let purpose = match point {
            StopPoint::Address { .. } => ReplayPurpose::StopPoint,
            StopPoint::Start | StopPoint::Exits(_) | StopPoint::After(_) | StopPoint::End => {
                ReplayPurpose::None
            }
        };
        let _reserved = machine.reserve_replays(purpose).map_err(host)?;
        // A probe runs on a second machine.
        let probes = if purpose == ReplayPurpose::StopPoint { Features::REPLAY } else { Features::empty() };
        args.sandbox.enter(machine.spec(), needs.features | probes, directories)?;
        let (machine, end) = run_until(machine, point).map_err(host)?;
        let point = match (&end, point) {
            (None, _) => words,
            (Some(end), StopPoint::End) => format!("at the end: {end}"),
            (
                Some(end),
                StopPoint::Start | StopPoint::Address { .. } | StopPoint::Exits(_) | StopPoint::After(_),
            ) => {
                return Err(ended_before_stop(&machine, end, &words).into());
            }
        };
        let stopped = Self { config, files, machine, point, end };
        stopped.warn_of_reset()?;
        Ok(stopped)
    }

    /// Makes a diagnostic of an error of the machine.
    pub(crate) fn error(&self, error: &Error) -> Diagnostics {
        machine_error(&self.config, error).into()
    }

    /// Warns if this host reset the vCPU when it shut down: its registers are then those after reset.
    fn warn_of_reset(&self) -> Result<(), Diagnostics> {
        if self.end != Some(End::Shutdown) || !self.machine.spec().boot.mode.is_protected() {
            return Ok(());
        }
        let kvm = |error: vmm_core::kvm_sys_wrap::Error| self.error(&error.into());
        let regs = self.machine.vcpu().regs().map_err(kvm)?;
        let sregs = self.machine.vcpu().sregs().map_err(kvm)?;
        if regs.rip == RESET_RIP && !Cr0::from_bits_retain(sregs.cr0).contains(Cr0::PE) {
            let message = "this host resets the vCPU when it shuts down: its registers, and with them the page \
                           tables in use, are not the guest's any more";
            let help = "stop earlier, with --at or --exits; memory is as the guest left it";
            Diagnostics::from(Diagnostic::warning(message).with_help(Some(help))).eprint();
        }
        Ok(())
    }
}

/// Makes the error for a guest that ended before the stop point that `words` describe.
pub(crate) fn ended_before_stop(machine: &Machine, end: &End, words: &str) -> Diagnostic {
    let status = match machine.verdict(end) {
        Verdict::Success | Verdict::Code(_) => Status::Unexpected,
        Verdict::Crashed => Status::Crashed,
        Verdict::Hung => Status::Hung,
        Verdict::Interrupted => Status::Interrupted,
    };
    let point = words.strip_prefix("at ").or_else(|| words.strip_prefix("after ")).unwrap_or(words);
    let exits = machine.exits().total();
    let plural = if exits == 1 { "" } else { "s" };
    Diagnostic::error(status, format!("the guest ended before {point}, after {exits} exit{plural}: {end}"))
        .with_help(Some("--end shows it as it is at its end"))
}

/// Returns the stop point and its description.
fn point(at: &StopAt, files: &Files) -> Result<(StopPoint, String), Diagnostic> {
    if let Some(text) = &at.at {
        let ResolvedAddress { address, .. } = resolve(files, &AddressExpr::parse(text)?)?;
        let name = files.symbol_at(address).map(|symbol| format!(" <{symbol}>")).unwrap_or_default();
        let point = StopPoint::Address { gva: Gva(address), gpa: load_address(files, address) };
        return Ok((point, format!("at {address:#x}{name}")));
    }
    if let Some(time) = at.after {
        return Ok((StopPoint::After(time), format!("after {time:?}")));
    }
    Ok(match (at.exits, at.end) {
        (Some(0), _) | (None, false) => (StopPoint::Start, "at the start".to_owned()),
        (Some(1), _) => (StopPoint::Exits(1), "after 1 exit".to_owned()),
        (Some(count), _) => (StopPoint::Exits(count), format!("after {count} exits")),
        (None, true) => (StopPoint::End, "at the end".to_owned()),
    })
}

/// Returns the physical address that the guest's files load a virtual address to.
pub(crate) fn load_address(files: &Files, address: u64) -> Option<Gpa> {
    files.plans().find_map(|(_, plan)| plan.virt_to_phys(VirtAddr(address))).map(Gpa::from)
}

/// Resolves an address expression. Symbols are looked up in the guest's file first, then in the others.
pub(crate) fn resolve(files: &Files, place: &AddressExpr) -> Result<ResolvedAddress, Diagnostic> {
    let (address, size, by_symbol) = match &place.base {
        AddressBase::Address(address) => (*address, 0, false),
        AddressBase::Symbol(name) => {
            let mut first_error = None;
            let found = files.plans().find_map(|(_, plan)| {
                plan.symbols().lookup(name).map_err(|error| first_error.get_or_insert(error).clone()).ok()
            });
            match (found, first_error) {
                (Some(symbol), _) => (symbol.address.0, symbol.size, true),
                (None, error) => {
                    let message =
                        error.as_ref().map_or_else(|| format!("no symbol `{name}`"), ToString::to_string);
                    let help = error.and_then(|error| error.help());
                    return Err(Diagnostic::error(Status::Configuration, message).with_help(help));
                }
            }
        }
    };
    let Some(address) = address.checked_add(place.offset) else {
        let message = format!("{address:#x} + {:#x} leaves the address space", place.offset);
        return Err(Diagnostic::error(Status::Configuration, message));
    };
    Ok(ResolvedAddress { address, by_symbol, size: size.saturating_sub(place.offset) })
}
