//! Statistics of a run (`--stats`): its exits, its times, the kernel's own counters.
//!
//! The text form is tables on standard error. The JSON form is the key `stats` of the report, with these keys; more may
//! come, none go:
//!
//! | key | value |
//! |---|---|
//! | `time` | `total_ns`, and its parts: `guest_ns` (`KVM_RUN`, with the kernel's work for it), `calls_ns` (other KVM calls), `watching_ns` (calls made for these statistics), `asleep_ns` (suspended), `own_ns` (the rest) |
//! | `calls` | by call: `call`, `count`, `total_ns`, `longest_ns` |
//! | `exits` | by type: `exit`, `count` |
//! | `accesses` | by address: `space` (`port`, `address`), `address`, `device`, `reads`, `writes` (exits), `bytes` |
//! | `symbols` | by guest symbol: `symbol`, `exits` |
//! | `kernel` | counters of the VM and the vCPU: `of`, `name`, `kind`, `unit`, `base`, `exponent`, `values` |
//! | `kernel_missing` | reason why there are no counters, on a host without them |

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Serialize;
use vmm_core::kvm_sys_wrap::{Call, Stat, StatKind, StatUnit, Stats};
use vmm_core::machine::Machine;
use vmm_core::machine::run_loop::RunOutcome;
use vmm_core::spec::BusAddress;

use super::access::ExitAccess;
use super::calls::CallTimes;
use super::event::Nanoseconds;
use crate::prepare::Files;
use crate::table::{self, Align};

/// Counters that are updated at each exit.
#[derive(Debug, Default)]
pub(crate) struct ExitCounters {
    accesses: BTreeMap<BusAddress, AccessSum>,
    /// Number of exits by the address of their instruction.
    places: BTreeMap<u64, u64>,
}

/// Statistics of a run.
#[derive(Debug, Serialize)]
pub(crate) struct Statistics {
    time: TimeShares,
    calls: Vec<CallSum>,
    exits: Vec<ExitSum>,
    accesses: Vec<AccessSum>,
    symbols: Vec<SymbolSum>,
    kernel: Vec<KernelCounter>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kernel_missing: Option<String>,
}

#[derive(Debug, Serialize)]
struct TimeShares {
    total_ns: u64,
    guest_ns: u64,
    calls_ns: u64,
    watching_ns: u64,
    asleep_ns: u64,
    own_ns: u64,
}

#[derive(Debug, Serialize)]
struct CallSum {
    call: &'static str,
    count: u64,
    total_ns: u64,
    longest_ns: u64,
}

#[derive(Debug, Serialize)]
struct ExitSum {
    exit: &'static str,
    count: u64,
}

#[derive(Debug, Default, Serialize)]
struct AccessSum {
    space: &'static str,
    address: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<String>,
    reads: u64,
    writes: u64,
    bytes: u64,
}

#[derive(Debug, Serialize)]
struct SymbolSum {
    symbol: String,
    exits: u64,
}

#[derive(Debug, Serialize)]
struct KernelCounter {
    of: String,
    name: String,
    kind: &'static str,
    unit: &'static str,
    base: u8,
    exponent: i16,
    values: Vec<u64>,
}

impl ExitCounters {
    /// Counts one exit, made by the instruction at `rip`.
    pub(crate) fn add(&mut self, access: Option<&ExitAccess>, device: Option<&str>, rip: u64) {
        *self.places.entry(rip).or_default() += 1;
        let Some(access) = access else { return };
        let sum = self.accesses.entry(access.at).or_insert_with(|| {
            let (space, address) = access.space_and_address();
            AccessSum { space, address, device: device.map(str::to_owned), ..AccessSum::default() }
        });
        *(if access.write { &mut sum.writes } else { &mut sum.reads }) += 1;
        let width = u64::try_from(access.width).unwrap_or(u64::MAX);
        sum.bytes = sum.bytes.saturating_add(width.saturating_mul(access.count));
    }

    /// Returns exits by symbol, most first. Addresses without a symbol stand for themselves.
    fn symbols(&self, symbol_at: impl Fn(u64) -> Option<String>) -> Vec<SymbolSum> {
        let mut sums: BTreeMap<String, u64> = BTreeMap::new();
        for (rip, exits) in &self.places {
            let symbol = symbol_at(*rip).map_or_else(
                || format!("{rip:#x}"),
                |symbol| symbol.rsplit_once("+0x").map_or(symbol.clone(), |(name, _)| name.to_owned()),
            );
            *sums.entry(symbol).or_default() += exits;
        }
        let mut sums: Vec<_> = sums.into_iter().map(|(symbol, exits)| SymbolSum { symbol, exits }).collect();
        sums.sort_by_key(|sum| std::cmp::Reverse(sum.exits));
        sums
    }
}

impl Statistics {
    /// Creates the statistics of a run that took `total` from opening `/dev/kvm` to its end. Reads the kernel's counters.
    pub(crate) fn new(
        outcome: &RunOutcome,
        times: &CallTimes,
        total: Duration,
        tally: ExitCounters,
        machine: &Machine,
        files: &Files,
    ) -> Self {
        let symbols = tally.symbols(|rip| files.symbol_at(rip));
        let mut accesses: Vec<_> = tally.accesses.into_values().collect();
        accesses.sort_by_key(|sum| std::cmp::Reverse(sum.reads.saturating_add(sum.writes)));
        let exits = outcome.exits.iter().map(|(kind, count)| ExitSum { exit: kind.name(), count }).collect();
        let (kernel, kernel_missing) = match kernel(machine) {
            Ok(counters) => (counters, None),
            Err(reason) => (Vec::new(), Some(reason)),
        };
        Self {
            time: TimeShares::new(times, total, machine.time_suspended()),
            calls: calls(times),
            exits,
            accesses,
            symbols,
            kernel,
            kernel_missing,
        }
    }
}

impl TimeShares {
    fn new(times: &CallTimes, total: Duration, asleep: Duration) -> Self {
        let sum = |is_run: bool| {
            let calls = times.calls().filter(|(call, _)| (*call == Call::Run.name()) == is_run);
            calls.map(|(_, (_, total, _))| total).sum::<Duration>()
        };
        let (guest, calls) = (sum(true), sum(false));
        let own = total
            .saturating_sub(guest)
            .saturating_sub(calls)
            .saturating_sub(times.watching)
            .saturating_sub(asleep);
        Self {
            total_ns: nanoseconds(total),
            guest_ns: nanoseconds(guest),
            calls_ns: nanoseconds(calls),
            watching_ns: nanoseconds(times.watching),
            asleep_ns: nanoseconds(asleep),
            own_ns: nanoseconds(own),
        }
    }
}

fn calls(times: &CallTimes) -> Vec<CallSum> {
    let sum = |(call, (count, total, longest))| CallSum {
        call,
        count,
        total_ns: nanoseconds(total),
        longest_ns: nanoseconds(longest),
    };
    let mut calls: Vec<_> = times.calls().map(sum).collect();
    calls.sort_by_key(|sum| std::cmp::Reverse(sum.total_ns));
    calls
}

/// Reads the kernel's counters, or returns the reason why there are none.
fn kernel(machine: &Machine) -> Result<Vec<KernelCounter>, String> {
    let vcpu = machine.vcpu();
    let sources = [("VM".to_owned(), vcpu.vm().stats()), (format!("vCPU {}", vcpu.id()), vcpu.stats())];
    let mut counters = Vec::new();
    for (of, stats) in sources {
        let read = |stats: Stats| stats.read().map_err(|error| error.to_string());
        let stats = stats.map_err(|error| error.to_string()).and_then(read)?;
        counters.extend(stats.into_iter().map(|stat| KernelCounter::new(&of, stat)));
    }
    Ok(counters)
}

impl KernelCounter {
    fn new(of: &str, stat: Stat) -> Self {
        let Stat { name, kind, unit, base, exponent, values } = stat;
        let kind = match kind {
            StatKind::Cumulative => "cumulative",
            StatKind::Instant => "instant",
            StatKind::Peak => "peak",
            StatKind::LinearHistogram { .. } => "linear-histogram",
            StatKind::LogHistogram => "logarithmic-histogram",
            StatKind::Other(_) => "unknown",
        };
        let unit = match unit {
            StatUnit::Count => "count",
            StatUnit::Bytes => "bytes",
            StatUnit::Seconds => "seconds",
            StatUnit::Cycles => "cycles",
            StatUnit::Boolean => "boolean",
            StatUnit::Other(_) => "unknown",
        };
        Self { of: of.to_owned(), name, kind, unit, base, exponent, values }
    }

    /// Formats the value with its unit, as in `12 x 10^-9 seconds`; of a histogram the buckets.
    fn shown(&self) -> String {
        let values: Vec<String> = self.values.iter().map(ToString::to_string).collect();
        let mut text = values.join(" ");
        if self.exponent != 0 {
            text = format!("{text} x {}^{}", self.base, self.exponent);
        }
        if matches!(self.unit, "bytes" | "seconds" | "cycles") {
            text = format!("{text} {}", self.unit);
        }
        text
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Maximum number of rows in a table. The JSON form has all.
const MAX_ROWS: usize = 20;

impl fmt::Display for Statistics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TimeShares { total_ns, guest_ns, calls_ns, watching_ns, asleep_ns, own_ns } = self.time;
        let share = |what: &str, part: u64| {
            let permille = part.saturating_mul(1000).checked_div(total_ns).unwrap_or(0);
            vec![
                what.to_owned(),
                Nanoseconds(part).to_string(),
                format!("{}.{} %", permille / 10, permille % 10),
            ]
        };
        let mut time = vec![
            share("guest, with the kernel's work for it (KVM_RUN)", guest_ns),
            share("other calls to KVM", calls_ns),
            share("vmm-cli", own_ns),
            share("calls for these statistics", watching_ns),
            share("in all", total_ns),
        ];
        if asleep_ns > 0 {
            time.insert(1, share("asleep: the guest had suspended the machine", asleep_ns));
        }
        write_table(f, &["time", "", ""], &time)?;
        let calls = self.calls.iter().map(|sum| {
            let times = [sum.total_ns, sum.longest_ns].map(|ns| Nanoseconds(ns).to_string());
            [vec![sum.call.to_owned(), sum.count.to_string()], times.to_vec()].concat()
        });
        write_table(f, &["calls", "count", "total", "longest"], &calls.collect::<Vec<_>>())?;
        let exits = self.exits.iter().map(|sum| vec![sum.exit.to_owned(), sum.count.to_string()]);
        write_table(f, &["exits by type", "count"], &exits.collect::<Vec<_>>())?;
        let accesses = self.accesses.iter().map(|sum| {
            let device = sum.device.as_deref().unwrap_or("nothing there");
            let place = format!("{} {:#x} ({device})", sum.space, sum.address);
            vec![place, sum.reads.to_string(), sum.writes.to_string(), sum.bytes.to_string()]
        });
        let header = ["exits by port and address", "reads", "writes", "bytes"];
        write_table(f, &header, &accesses.collect::<Vec<_>>())?;
        let symbols = self.symbols.iter().map(|sum| vec![sum.symbol.clone(), sum.exits.to_string()]);
        write_table(f, &["exits by symbol", "count"], &symbols.collect::<Vec<_>>())?;
        let not_zero = self.kernel.iter().filter(|counter| counter.values.iter().any(|value| *value != 0));
        let kernel: Vec<_> = not_zero
            .map(|counter| vec![format!("{} {}", counter.of, counter.name), counter.shown()])
            .collect();
        write_rows(f, &["the kernel's counters that are not 0", "value"], &kernel, usize::MAX)?;
        match &self.kernel_missing {
            Some(reason) => writeln!(f, "  none: {reason}"),
            None => Ok(()),
        }
    }
}

fn write_table(f: &mut fmt::Formatter<'_>, header: &[&str], rows: &[Vec<String>]) -> fmt::Result {
    write_rows(f, header, rows, MAX_ROWS)
}

/// Writes a header and at most `max` rows, which are indented.
fn write_rows(f: &mut fmt::Formatter<'_>, header: &[&str], rows: &[Vec<String>], max: usize) -> fmt::Result {
    // Two spaces more behind the longest cell of the first column, be it the header or an indented row.
    let cell =
        |(column, cell): (usize, &&str)| if column == 0 { format!("{cell}  ") } else { (*cell).to_owned() };
    let mut lines = vec![header.iter().enumerate().map(cell).collect::<Vec<_>>()];
    lines.extend(rows.iter().take(max).map(|row| {
        let mut row = row.clone();
        if let Some(first) = row.first_mut() {
            first.insert_str(0, "  ");
        }
        row
    }));
    table::lines(&lines, Align::Numbers).iter().try_for_each(|line| writeln!(f, "{line}"))?;
    match rows.len().checked_sub(max) {
        Some(left_out @ 1..) => writeln!(f, "  and {left_out} more"),
        Some(0) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use vmm_core::Port;
    use vmm_core::kvm_sys_wrap::IoBytes;

    use super::*;

    fn out(port: u16, count: u64) -> ExitAccess {
        ExitAccess {
            at: BusAddress::Port(Port(port)),
            write: true,
            width: 2,
            count,
            bytes: IoBytes::new(&[]),
        }
    }

    #[test]
    fn exits_are_summed_by_place_and_symbol() {
        let mut tally = ExitCounters::default();
        tally.add(Some(&out(0xe9, 1)), Some("debug-console"), 0x1000);
        tally.add(Some(&out(0xe9, 10)), Some("debug-console"), 0x1004);
        tally.add(Some(&ExitAccess { write: false, ..out(0x60, 1) }), None, 0x2000);
        tally.add(None, None, 0x3000);
        let console = &tally.accesses[&BusAddress::Port(Port(0xe9))];
        assert_eq!((console.reads, console.writes, console.bytes), (0, 2, 22));
        assert_eq!(tally.accesses[&BusAddress::Port(Port(0x60))].reads, 1);
        let symbols = tally.symbols(|rip| (rip < 0x3000).then(|| format!("main+{:#x}", rip - 0xfff)));
        let symbols: Vec<_> = symbols.iter().map(|sum| (sum.symbol.as_str(), sum.exits)).collect();
        assert_eq!(symbols, [("main", 3), ("0x3000", 1)]);
    }

    #[test]
    fn the_parts_of_the_time_make_the_whole() {
        let ms = Duration::from_millis;
        let mut times = CallTimes { watching: ms(5), ..CallTimes::default() };
        times.run = (10, ms(50), ms(9));
        times.others.insert("KVM_CREATE_VM", (1, ms(20), ms(20)));
        let spent = TimeShares::new(&times, ms(110), ms(10));
        assert_eq!((spent.guest_ns, spent.calls_ns, spent.own_ns), (50_000_000, 20_000_000, 25_000_000));
        let TimeShares { total_ns, guest_ns, calls_ns, watching_ns, asleep_ns, own_ns } = spent;
        assert_eq!(guest_ns + calls_ns + watching_ns + asleep_ns + own_ns, total_ns);
    }

    #[test]
    fn tables_are_aligned_and_cut() {
        struct Shown(Vec<Vec<String>>);
        impl fmt::Display for Shown {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_rows(f, &["what", "count"], &self.0, 2)
            }
        }
        let line = |name: &str, count: &str| vec![name.to_owned(), count.to_owned()];
        let text = Shown(vec![line("pio-out", "12"), line("hlt", "1"), line("x", "9")]).to_string();
        assert_eq!(text, "what       count\n  pio-out     12\n  hlt          1\n  and 1 more\n");
    }
}
