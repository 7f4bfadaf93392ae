//! Writes events in the Trace Event format, which Perfetto (ui.perfetto.dev) and chrome://tracing open.
//!
//! The file is one JSON array, written during the run under a hidden name. Viewers accept a file without its end, so what a run
//! that was killed leaves under that name is a usable trace. Tracks are threads of one process: vCPUs, KVM calls, and each device. Everything with a
//! duration is a complete event (`ph` is `X`) with start `ts` and length `dur` in microseconds. All details are in its
//! `args`.
//!
//! Events are logged when they end, but viewers want them sorted by their start. The events of one iteration of the run
//! loop are therefore kept until it is over, and sorted.
//!
//! Format: "Trace Event Format", Google, 2016; `M` is metadata, `X` complete, `i` instant.

use std::collections::BTreeMap;
use std::io::{self, BufWriter, Write};

use serde_json::{Map, Value, json};

use super::event::{AccessEvent, CallEvent, CodeLocation, ExitEvent, StepEvent, TraceEvent, value};
use super::reg_diff;

/// Process ID of all events.
const PROCESS: u64 = 1;
/// Thread IDs of the tracks: KVM calls, vCPUs from 2, devices from 1000.
const CALLS: u64 = 1;
const FIRST_VCPU: u64 = 2;
const FIRST_DEVICE: u64 = 1000;

/// Maximum number of events that are kept for sorting.
const MAX_KEPT: usize = 4096;

/// Trace file that is being written.
pub(crate) struct TraceFile<W: Write> {
    out: BufWriter<W>,
    /// True if the file has an event, so that a comma must follow.
    begun: bool,
    /// Events of the current iteration, each with its start in nanoseconds.
    kept: Vec<(u64, Value)>,
    devices: BTreeMap<String, u64>,
    vcpus: BTreeMap<u64, u64>,
}

impl<W: Write> TraceFile<W> {
    /// Starts a trace of the run of `config`.
    pub(crate) fn new(out: W, config: &str) -> io::Result<Self> {
        let out = BufWriter::new(out);
        let (devices, vcpus) = Default::default();
        let mut file = Self { out, begun: false, kept: Vec::new(), devices, vcpus };
        file.out.write_all(b"[\n")?;
        file.write(&metadata("process_name", 0, &format!("vmm-cli run {config}")))?;
        file.write(&metadata("thread_name", CALLS, "VMM: calls to KVM"))?;
        Ok(file)
    }

    /// Adds an event.
    pub(crate) fn add(&mut self, event: &TraceEvent) -> io::Result<()> {
        let turn_over = match event {
            TraceEvent::Call(call) => {
                if call.call != "KVM_RUN" {
                    self.kept.push((call.at_ns, of_call(call)));
                }
                call.call == "KVM_RUN"
            }
            TraceEvent::Exit(exit) => {
                let track = self.vcpu(exit.vcpu)?;
                self.kept.push((exit.at_ns, of_exit(exit, track)));
                self.service(exit)?;
                true
            }
            TraceEvent::Step(step) => {
                let track = self.vcpu(step.vcpu)?;
                self.kept.push((step.at_ns, of_step(step, track)));
                true
            }
            TraceEvent::Note(note) => {
                let record = json!({
                    "name": note.text, "cat": "note", "ph": "i", "s": "g",
                    "ts": microseconds(note.at_ns), "pid": PROCESS, "tid": CALLS,
                });
                self.kept.push((note.at_ns, record));
                false
            }
        };
        if turn_over || self.kept.len() >= MAX_KEPT { self.flush_kept() } else { Ok(()) }
    }

    /// Ends the file and returns it.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.flush_kept()?;
        self.out.write_all(b"\n]\n")?;
        self.out.into_inner().map_err(io::IntoInnerError::into_error)
    }

    /// Returns the event of a device that served an exit, on its own track.
    fn service(&mut self, exit: &ExitEvent) -> io::Result<()> {
        let Some(access) = &exit.access else { return Ok(()) };
        let Some(device) = &access.device else { return Ok(()) };
        let track = match self.devices.get(device) {
            Some(track) => *track,
            None => {
                // No machine has so many devices that this could overflow.
                let track = FIRST_DEVICE + u64::try_from(self.devices.len()).unwrap_or(0);
                self.write(&metadata("thread_name", track, &format!("device: {device}")))?;
                self.devices.insert(device.clone(), track);
                track
            }
        };
        let begin = exit.served_at_ns;
        let name = if access.write { "write" } else { "read" };
        let mut args = Map::new();
        describe_access(access, &mut args);
        args.insert("exit".to_owned(), exit.number.into());
        self.kept.push((begin, complete(name, "device", begin, exit.service_ns, track, args)));
        Ok(())
    }

    fn vcpu(&mut self, number: u64) -> io::Result<u64> {
        if let Some(track) = self.vcpus.get(&number) {
            return Ok(*track);
        }
        let track = FIRST_VCPU.saturating_add(number);
        self.write(&metadata("thread_name", track, &format!("guest: vCPU {number}")))?;
        self.vcpus.insert(number, track);
        Ok(track)
    }

    fn flush_kept(&mut self) -> io::Result<()> {
        let mut kept = std::mem::take(&mut self.kept);
        kept.sort_by_key(|(begin, _)| *begin);
        kept.iter().try_for_each(|(_, record)| self.write(record))
    }

    fn write(&mut self, record: &Value) -> io::Result<()> {
        if self.begun {
            self.out.write_all(b",\n")?;
        }
        self.begun = true;
        serde_json::to_writer(&mut self.out, record)?;
        Ok(())
    }
}

fn metadata(what: &str, track: u64, name: &str) -> Value {
    json!({ "name": what, "ph": "M", "ts": 0, "pid": PROCESS, "tid": track, "args": { "name": name } })
}

fn complete(
    name: &str,
    category: &str,
    begin: u64,
    length: u64,
    track: u64,
    args: Map<String, Value>,
) -> Value {
    json!({
        "name": name, "cat": category, "ph": "X", "ts": microseconds(begin), "dur": microseconds(length),
        "pid": PROCESS, "tid": track, "args": args,
    })
}

fn of_call(call: &CallEvent) -> Value {
    let mut args = Map::new();
    args.insert("on".to_owned(), call.on.as_str().into());
    args.insert("arguments".to_owned(), call.arguments.as_str().into());
    args.insert("result".to_owned(), call.result.as_str().into());
    complete(call.call, "call", call.at_ns, call.elapsed_ns, CALLS, args)
}

fn of_exit(exit: &ExitEvent, track: u64) -> Value {
    let mut args = Map::new();
    args.insert("number".to_owned(), exit.number.into());
    describe_place(&exit.place, &mut args);
    let name = match &exit.access {
        Some(access) => {
            describe_access(access, &mut args);
            format!("{} {:#x}", exit.exit, access.address)
        }
        None => exit.exit.to_owned(),
    };
    if let Some(detail) = &exit.detail {
        args.insert("detail".to_owned(), detail.as_str().into());
    }
    args.insert("changes".to_owned(), reg_diff::line(&exit.changes).into());
    complete(&name, "exit", exit.at_ns, exit.guest_ns, track, args)
}

fn of_step(step: &StepEvent, track: u64) -> Value {
    let mut args = Map::new();
    describe_place(&step.place, &mut args);
    args.insert("bits".to_owned(), step.bits.into());
    args.insert("changes".to_owned(), reg_diff::line(&step.changes).into());
    complete(&step.instruction, "step", step.at_ns, step.guest_ns, track, args)
}

/// Formats an address as text: it has 64 bits, and numbers in JavaScript have 53.
fn describe_place(place: &CodeLocation, args: &mut Map<String, Value>) {
    args.insert("rip".to_owned(), format!("{:#x}", place.rip).into());
    for (key, text) in [("symbol", &place.symbol), ("line", &place.line)] {
        if let Some(text) = text {
            args.insert(key.to_owned(), text.as_str().into());
        }
    }
}

fn describe_access(access: &AccessEvent, args: &mut Map<String, Value>) {
    args.insert(access.space.to_owned(), format!("{:#x}", access.address).into());
    args.insert("value".to_owned(), value(&access.bytes, access.width).into());
    args.insert("width".to_owned(), access.width.into());
    args.insert("count".to_owned(), access.count.into());
    if let Some(device) = &access.device {
        args.insert("device".to_owned(), device.as_str().into());
    }
}

/// Formats microseconds with three decimals, so that no nanosecond is lost.
fn microseconds(ns: u64) -> Value {
    let text = format!("{}.{:03}", ns / 1000, ns % 1000);
    text.parse::<serde_json::Number>().map_or(Value::Null, Value::Number)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn call(at_ns: u64, call: &'static str) -> TraceEvent {
        let (arguments, result) = Default::default();
        TraceEvent::Call(CallEvent {
            at_ns,
            elapsed_ns: 10,
            on: "VM".to_owned(),
            call,
            arguments,
            result,
            failed: false,
        })
    }

    fn exit(at_ns: u64) -> TraceEvent {
        let access = AccessEvent {
            space: "port",
            address: 0x508,
            device: Some("hypercall".to_owned()),
            write: true,
            width: 4,
            count: 1,
            bytes: vec![0; 4],
        };
        TraceEvent::Exit(ExitEvent {
            at_ns,
            guest_ns: 100,
            served_at_ns: at_ns + 100,
            service_ns: 50,
            vcpu: 0,
            number: 1,
            exit: "pio-out",
            place: CodeLocation { rip: u64::MAX, symbol: None, line: None },
            access: Some(access),
            detail: None,
            changes: Vec::new(),
        })
    }

    #[test]
    fn events_are_written_in_the_order_in_which_they_began() {
        let out = Shared::default();
        let mut file = TraceFile::new(out.clone(), "a \"name\".toml").unwrap();
        // The device's own call ended, and was logged, before the exit that it was made for.
        for event in
            [call(5, "KVM_CREATE_VM"), call(1000, "KVM_RUN"), call(1110, "KVM_TRANSLATE"), exit(1000)]
        {
            file.add(&event).unwrap();
        }
        let unfinished = out.0.lock().unwrap().clone();
        file.finish().unwrap();
        let events: Vec<Value> = serde_json::from_slice(&out.0.lock().unwrap()).unwrap();
        let shown: Vec<_> = events
            .iter()
            .filter(|event| event["ph"] == "X")
            .map(|event| (event["ts"].as_f64().unwrap(), event["name"].as_str().unwrap()))
            .collect();
        let expected =
            [(0.005, "KVM_CREATE_VM"), (1.0, "pio-out 0x508"), (1.1, "write"), (1.11, "KVM_TRANSLATE")];
        assert_eq!(shown, expected);
        assert_eq!(events[0]["args"]["name"], "vmm-cli run a \"name\".toml");
        let of_guest = events.iter().find(|event| event["name"] == "pio-out 0x508").unwrap();
        assert_eq!(of_guest["args"]["rip"], "0xffffffffffffffff");
        // The file of a run that was killed is only missing its end.
        let cut = String::from_utf8(unfinished).unwrap() + "]";
        assert!(cut == "]" || serde_json::from_str::<Vec<Value>>(&cut).is_ok());
    }
}
