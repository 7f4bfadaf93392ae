//! Events of a trace: calls, exits, steps.
//!
//! Events own their data, so that the last ones can be kept and shown later. The text form is one line. The JSON form
//! is one object a line (`--format json`) with these keys; more may come, none go.
//!
//! | `event` | keys |
//! |---|---|
//! | `call` | `at_ns`, `elapsed_ns`, `on`, `call`, `arguments`, `result`, `failed` |
//! | `exit` | `at_ns` (entry of the guest), `guest_ns`, `served_at_ns` (start of serving), `service_ns`, `vcpu`, `number`, `exit`, location, `access`, `detail`, `changes` |
//! | `step` | `at_ns`, `guest_ns`, `vcpu`, location, `bits`, `bytes`, `instruction`, `changes` |
//! | `note` | `at_ns`, `text` |
//!
//! A location is `rip` (linear) with `symbol` and `line` where they are known. An `access` has `space` (`port` or
//! `address`), `address`, `device`, `write`, `width`, `count` and the `bytes` that were written or read. A change has
//! `register`, `old` and `new`. Times are in nanoseconds, `at_ns` since the creation of the observer.

use std::fmt;
use std::fmt::Write as _;

use serde::Serialize;

use super::reg_diff::{self, RegisterChange};

/// Event of a trace.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub(crate) enum TraceEvent {
    Call(CallEvent),
    Exit(ExitEvent),
    Step(StepEvent),
    Note(NoteEvent),
}

/// KVM call, or another system call of the run.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct CallEvent {
    pub(crate) at_ns: u64,
    pub(crate) elapsed_ns: u64,
    pub(crate) on: String,
    pub(crate) call: &'static str,
    pub(crate) arguments: String,
    pub(crate) result: String,
    pub(crate) failed: bool,
}

/// Exit, and how it was served.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct ExitEvent {
    pub(crate) at_ns: u64,
    pub(crate) guest_ns: u64,
    pub(crate) served_at_ns: u64,
    pub(crate) service_ns: u64,
    pub(crate) vcpu: u64,
    pub(crate) number: u64,
    pub(crate) exit: &'static str,
    #[serde(flatten)]
    pub(crate) place: CodeLocation,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) access: Option<AccessEvent>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) detail: Option<String>,
    pub(crate) changes: Vec<RegisterChange>,
}

/// Executed instruction.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct StepEvent {
    pub(crate) at_ns: u64,
    pub(crate) guest_ns: u64,
    pub(crate) vcpu: u64,
    #[serde(flatten)]
    pub(crate) place: CodeLocation,
    pub(crate) bits: u32,
    pub(crate) bytes: Vec<u8>,
    pub(crate) instruction: String,
    pub(crate) changes: Vec<RegisterChange>,
}

/// Note for the reader of a trace.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct NoteEvent {
    pub(crate) at_ns: u64,
    pub(crate) text: String,
}

/// Location in the guest's code.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct CodeLocation {
    pub(crate) rip: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) symbol: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) line: Option<String>,
}

/// Port or MMIO access.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct AccessEvent {
    pub(crate) space: &'static str,
    pub(crate) address: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) device: Option<String>,
    pub(crate) write: bool,
    pub(crate) width: usize,
    pub(crate) count: u64,
    pub(crate) bytes: Vec<u8>,
}

impl TraceEvent {
    fn at_ns(&self) -> u64 {
        match self {
            Self::Call(event) => event.at_ns,
            // The line is written when the exit is served, or the step is done.
            Self::Exit(event) => event.served_at_ns.saturating_add(event.service_ns),
            Self::Step(event) => event.at_ns.saturating_add(event.guest_ns),
            Self::Note(event) => event.at_ns,
        }
    }
}

/// Formats one line: the time in seconds, then the event.
impl fmt::Display for TraceEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.at_ns();
        write!(f, "{}.{:06} ", at / 1_000_000_000, at % 1_000_000_000 / 1000)?;
        match self {
            Self::Call(event) => event.fmt(f),
            Self::Exit(event) => event.fmt(f),
            Self::Step(event) => event.fmt(f),
            Self::Note(event) => write!(f, "note: {}", event.text),
        }
    }
}

impl fmt::Display for CallEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { on, call, arguments, result, elapsed_ns, .. } = self;
        write!(f, "call {on}: ")?;
        match call.strip_suffix(')') {
            // Some names have an argument of their own, as in `open("/dev/kvm")`.
            Some(call) => write!(f, "{call}, {arguments})")?,
            None => write!(f, "{call}({arguments})")?,
        }
        write!(f, " = {result} <{}>", Nanoseconds(*elapsed_ns))
    }
}

impl fmt::Display for ExitEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { vcpu, number, exit, place, access, detail, changes, guest_ns, .. } = self;
        write!(f, "{}exit {number}: {exit}", VcpuPrefix(*vcpu))?;
        if let Some(access) = access {
            write!(f, " {access}")?;
        }
        if let Some(detail) = detail {
            write!(f, " {detail}")?;
        }
        write!(f, " at {place} <{}>", Nanoseconds(*guest_ns))?;
        if changes.is_empty() { Ok(()) } else { write!(f, "; {}", reg_diff::line(changes)) }
    }
}

impl fmt::Display for StepEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { vcpu, place, instruction, changes, .. } = self;
        write!(f, "{}step {place}: {instruction}", VcpuPrefix(*vcpu))?;
        if changes.is_empty() { Ok(()) } else { write!(f, "; {}", reg_diff::line(changes)) }
    }
}

/// Prefix of events that names the vCPU. Empty for vCPU 0, the only one in most machines.
struct VcpuPrefix(u64);

impl fmt::Display for VcpuPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 { Ok(()) } else { write!(f, "vCPU {}: ", self.0) }
    }
}

impl fmt::Display for CodeLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.rip)?;
        if let Some(symbol) = &self.symbol {
            write!(f, " <{symbol}>")?;
        }
        if let Some(line) = &self.line {
            write!(f, " ({line})")?;
        }
        Ok(())
    }
}

/// Formats `port 0xe9 (debug-console) <- 0x48 'H'`: an arrow to the left is a write.
impl fmt::Display for AccessEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { space, address, device, write, width, count, bytes } = self;
        let device = device.as_deref().unwrap_or("nothing there");
        write!(f, "{space} {address:#x} ({device}) {} ", if *write { "<-" } else { "->" })?;
        f.write_str(&value(bytes, *width))?;
        if *count > 1 { write!(f, " ({count} times {width})") } else { Ok(()) }
    }
}

/// Maximum number of items shown of one access.
const MAX_ITEMS: usize = 16;

/// Formats items of `width` bytes as numbers, and as text where they are printable bytes.
pub(super) fn value(bytes: &[u8], width: usize) -> String {
    let mut text = String::new();
    for item in bytes.chunks(width.max(1)).take(MAX_ITEMS) {
        let number = item.iter().rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        let separator = if text.is_empty() { "" } else { " " };
        // Writing to a string cannot fail.
        let _ = write!(text, "{separator}{number:#x}");
    }
    if bytes.len() / width.max(1) > MAX_ITEMS {
        text.push_str(" ...");
    }
    match bytes {
        [] => text.push_str("nothing"),
        [byte] if byte.is_ascii_graphic() || *byte == b' ' => {
            let _ = write!(text, " '{}'", char::from(*byte));
        }
        [_] => {}
        _ if width == 1 => {
            let shown = bytes.get(..MAX_ITEMS.min(bytes.len())).unwrap_or_default();
            let _ = write!(text, " \"{}\"", shown.escape_ascii());
        }
        _ => {}
    }
    text
}

/// Duration in nanoseconds, shown with a unit.
pub(crate) struct Nanoseconds(pub(crate) u64);

impl fmt::Display for Nanoseconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ns = self.0;
        let (whole, part, unit) = match ns {
            0..1_000 => return write!(f, "{ns} ns"),
            1_000..1_000_000 => (ns / 1_000, ns % 1_000 / 100, "us"),
            1_000_000..1_000_000_000 => (ns / 1_000_000, ns % 1_000_000 / 100_000, "ms"),
            1_000_000_000.. => (ns / 1_000_000_000, ns % 1_000_000_000 / 100_000_000, "s"),
        };
        write!(f, "{whole}.{part} {unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_numbers_of_their_width() {
        assert_eq!(value(b"H", 1), "0x48 'H'");
        assert_eq!(value(&[10], 1), "0xa");
        assert_eq!(value(&[1, 2, 3, 4], 4), "0x4030201");
        assert_eq!(value(b"Hi\n", 1), "0x48 0x69 0xa \"Hi\\n\"");
        assert_eq!(value(&[], 1), "nothing");
        assert!(value(&[0; 100], 1).contains("..."));
    }

    #[test]
    fn times_have_a_unit_and_one_digit_behind_the_point() {
        let shown = [999, 1_000, 8_250, 12_345_678, 61_000_000_000].map(|ns| Nanoseconds(ns).to_string());
        assert_eq!(shown, ["999 ns", "1.0 us", "8.2 us", "12.3 ms", "61.0 s"]);
    }

    #[test]
    fn an_exit_is_one_line() {
        let place = CodeLocation {
            rip: 0x10_0004,
            symbol: Some("main+0x4".to_owned()),
            line: Some("hello.c:12".to_owned()),
        };
        let access = AccessEvent {
            space: "port",
            address: 0xe9,
            device: Some("debug-console".to_owned()),
            write: true,
            width: 1,
            count: 1,
            bytes: b"H".to_vec(),
        };
        let event = TraceEvent::Exit(ExitEvent {
            at_ns: 1_000_123_456,
            guest_ns: 8_000,
            served_at_ns: 1_000_131_500,
            service_ns: 900,
            vcpu: 0,
            number: 3,
            exit: "pio-out",
            place,
            access: Some(access),
            detail: None,
            changes: vec![RegisterChange { register: "rax".to_owned(), old: 0, new: 0x48 }],
        });
        assert_eq!(
            event.to_string(),
            "1.000132 exit 3: pio-out port 0xe9 (debug-console) <- 0x48 'H' at 0x100004 <main+0x4> (hello.c:12) \
             <8.0 us>; rax=0x48"
        );
        let json = serde_json::to_value(&event).unwrap();
        assert_eq!(
            (&json["event"], &json["symbol"], &json["access"]["address"]),
            (&"exit".into(), &"main+0x4".into(), &0xe9.into())
        );
    }
}
