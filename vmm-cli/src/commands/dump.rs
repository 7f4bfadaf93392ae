//! `vmm-cli dump`: shows guest memory as a hex dump or as bytes, or writes a core file for gdb.
//!
//! A number is a physical address unless `--virtual` is given. A symbol is always virtual. A range with an unmapped byte is
//! refused as a whole, before anything is written. The hex dump has the format of `hexdump -C`: lines of 16 bytes, and a star
//! for lines that repeat the previous one.
//!
//! The JSON form is an array with an object for each range. More keys may come, none go:
//!
//! | key | value |
//! |---|---|
//! | `address` | first address |
//! | `virtual` | true if the address is virtual |
//! | `length` | number of bytes |
//! | `hex` | bytes, two digits each |

use std::fmt::Write as _;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;

use clap::{Args, ValueHint};
use serde::Serialize;
use vm_memory::{Bytes, GuestMemoryBackend};
use vmm_core::PAGE_SIZE;
use vmm_core::paging::walk::Walker;
use vmm_core::{Gpa, Gva};

use crate::config::address_expr::{AddressRange, RangeExtent};
use crate::core_file;
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::inspect::InspectArgs;
use crate::inspect::{InspectNeeds, InspectedGuest, ResolvedAddress, resolve};
use crate::options::Format;
use crate::output_file::OutputFile;
use crate::status::Status;
use crate::stdout;

/// Number of bytes written at once: a multiple of the 16 bytes of a line.
const CHUNK: usize = 1 << 16;

#[derive(Debug, Serialize)]
struct RangeRecord {
    address: u64,
    #[serde(rename = "virtual")]
    is_virtual: bool,
    length: u64,
    hex: String,
}

/// Options of `dump`.
#[derive(Debug, Args)]
pub(crate) struct DumpArgs {
    #[command(flatten)]
    pub(crate) inspect: InspectArgs,
    /// ADDRESS..ADDRESS, ADDRESS,LENGTH, or a symbol; symbols can have an offset. Numbers are physical addresses,
    /// symbols virtual
    #[arg(required_unless_present = "core", value_name = "RANGE")]
    pub(crate) ranges: Vec<String>,
    /// Take numbers as virtual addresses
    #[arg(long = "virtual")]
    pub(crate) is_virtual: bool,
    /// Write the bytes themselves
    #[arg(long, conflicts_with = "format")]
    pub(crate) raw: bool,
    /// Write to this file instead of standard output
    #[arg(long, short, value_name = "FILE", value_hint = ValueHint::FilePath, requires = "ranges")]
    pub(crate) output: Option<PathBuf>,
    /// Write registers and all memory to this ELF core file, for gdb
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) core: Option<PathBuf>,
    /// Let --output and --core replace files
    #[arg(long)]
    pub(crate) force: bool,
    /// Output format
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

/// Runs `vmm-cli dump`.
pub(crate) fn dump(args: &DumpArgs) -> Result<Status, Diagnostics> {
    let ranges: Vec<AddressRange> =
        args.ranges.iter().map(|text| AddressRange::parse(text)).collect::<Result<_, _>>()?;
    let create = |path: &Path, what| OutputFile::create(path, what, args.force);
    let mut output = args.output.as_deref().map(|path| create(path, "the dump")).transpose()?;
    let core = args.core.as_deref().map(|path| create(path, "the core file")).transpose()?;
    let outputs: Vec<&OutputFile> = output.iter().chain(&core).collect();
    let needs = InspectNeeds { outputs: &outputs, ..InspectNeeds::default() };
    let stopped = InspectedGuest::new(&args.inspect, needs)?;
    let walker = stopped.machine.walker().map_err(|error| stopped.error(&error))?;
    let mut extents = Vec::new();
    for range in &ranges {
        let extent = DumpRange::new(&stopped, range, args.is_virtual)?;
        extent.check(&stopped, &walker)?;
        extents.push(extent);
    }
    let mut rows = Vec::new();
    for extent in extents {
        let mut hex = HexDump::new(extent.start);
        let mut row = RangeRecord {
            address: extent.start,
            is_virtual: extent.is_virtual,
            length: extent.length,
            hex: String::new(),
        };
        extent.read(&stopped, &walker, |bytes| match (args.format, args.raw) {
            (Format::Text, true) => write(&mut output, bytes),
            (Format::Text, false) => write(&mut output, hex.lines(bytes).as_bytes()),
            (Format::Json, _) => {
                for byte in bytes {
                    // Writing to a string cannot fail.
                    let _ = write!(row.hex, "{byte:02x}");
                }
                Ok(())
            }
        })?;
        match (args.format, args.raw) {
            (Format::Text, false) => write(&mut output, hex.end().as_bytes())?,
            (Format::Text, true) => {}
            (Format::Json, _) => rows.push(row),
        }
    }
    if args.format == Format::Json && !ranges.is_empty() {
        // Rows always serialize: the fallback is never used.
        let text = serde_json::to_string(&rows).unwrap_or_default() + "\n";
        write(&mut output, text.as_bytes())?;
    }
    if let Some(mut core) = core {
        core_file::write(&stopped.machine, stopped.end.as_ref(), None, &mut core)?;
        core.persist()?;
    }
    if let Some(output) = output {
        output.persist()?;
    }
    Ok(Status::Success)
}

fn write(output: &mut Option<OutputFile>, bytes: &[u8]) -> Result<(), Diagnostics> {
    match output {
        Some(output) => match output.file().write_all(bytes) {
            Ok(()) => Ok(()),
            Err(error) => Err(output.write_error(&error).into()),
        },
        None => stdout::write_all(bytes),
    }
}

/// Range of addresses to dump.
struct DumpRange {
    start: u64,
    length: u64,
    is_virtual: bool,
}

impl DumpRange {
    fn new(stopped: &InspectedGuest, range: &AddressRange, is_virtual: bool) -> Result<Self, Diagnostic> {
        let ResolvedAddress { address: start, by_symbol, size } = resolve(&stopped.files, &range.start)?;
        let mistake = |message| Diagnostic::error(Status::Configuration, message);
        let length = match &range.extent {
            RangeExtent::Length(length) => *length,
            RangeExtent::UpTo(end) => {
                let end = resolve(&stopped.files, end)?.address;
                end.checked_sub(start).ok_or_else(|| {
                    mistake(format!("the range ends at {end:#x}, before its start {start:#x}"))
                })?
            }
            RangeExtent::Symbol if size == 0 => {
                return Err(mistake(format!("the symbol at {start:#x} has no size"))
                    .with_help(Some("give the length: `SYMBOL,64` for 64 bytes")));
            }
            RangeExtent::Symbol => size,
        };
        if length == 0 || start.checked_add(length - 1).is_none() {
            return Err(mistake(format!("{length} bytes from {start:#x} are not a range")));
        }
        Ok(Self { start, length, is_virtual: is_virtual || by_symbol })
    }

    /// Calls `each` with physical address and length of each page of the range.
    fn pieces(
        &self,
        stopped: &InspectedGuest,
        walker: &Walker,
        mut each: impl FnMut(Gpa, usize) -> Result<(), Diagnostics>,
    ) -> Result<(), Diagnostics> {
        let memory = stopped.machine.memory();
        let mut done = 0;
        while done < self.length {
            let at = self.start.wrapping_add(done);
            let size = (PAGE_SIZE - at % PAGE_SIZE).min(self.length - done);
            let nothing = |why: String| {
                let kind = if self.is_virtual { "" } else { "physical " };
                let help = "`vmm-cli pages` and `vmm-cli check -v` show what is there";
                Diagnostic::error(Status::Configuration, format!("cannot read {kind}{at:#x}: {why}"))
                    .with_help(Some(help))
            };
            let gpa = if self.is_virtual {
                let walk = walker.walk(memory, Gva(at));
                walk.translation().ok_or_else(|| nothing(walk.end.to_string()))?.gpa
            } else {
                Gpa(at)
            };
            // Checking the first and the last byte is enough: memory consists of whole pages.
            let last = Gpa(gpa.0.saturating_add(size - 1));
            if !memory.address_in_range(gpa.into()) || !memory.address_in_range(last.into()) {
                let place = if self.is_virtual { format!("at physical {gpa}") } else { "there".to_owned() };
                return Err(nothing(format!("no memory is {place}")).into());
            }
            each(gpa, usize::try_from(size).unwrap_or(0))?;
            done = done.saturating_add(size);
        }
        Ok(())
    }

    fn check(&self, stopped: &InspectedGuest, walker: &Walker) -> Result<(), Diagnostics> {
        self.pieces(stopped, walker, |_, _| Ok(()))
    }

    /// Calls `take` with the bytes, in chunks of which all but the last consist of whole lines.
    fn read(
        &self,
        stopped: &InspectedGuest,
        walker: &Walker,
        mut take: impl FnMut(&[u8]) -> Result<(), Diagnostics>,
    ) -> Result<(), Diagnostics> {
        let mut buffer = Vec::new();
        self.pieces(stopped, walker, |gpa, size| {
            let start = buffer.len();
            buffer.resize(start.saturating_add(size), 0);
            if let Some(bytes) = buffer.get_mut(start..) {
                let read = stopped.machine.memory().read_slice(bytes, gpa.into());
                read.map_err(|error| {
                    Diagnostic::error(Status::Host, format!("cannot read guest memory: {error}"))
                })?;
            }
            if buffer.len() >= CHUNK {
                let rest = buffer.split_off(buffer.len() - buffer.len() % 16);
                take(&buffer)?;
                buffer = rest;
            }
            Ok(())
        })?;
        take(&buffer)
    }
}

/// Formats lines of 16 bytes like `hexdump -C`.
struct HexDump {
    address: u64,
    last: Vec<u8>,
    starred: bool,
}

impl HexDump {
    const fn new(address: u64) -> Self {
        Self { address, last: Vec::new(), starred: false }
    }

    fn lines(&mut self, bytes: &[u8]) -> String {
        let mut text = String::new();
        for line in bytes.chunks(16) {
            if line.len() == 16 && line == self.last {
                if !self.starred {
                    text.push_str("*\n");
                }
                self.starred = true;
            } else {
                self.starred = false;
                self.line(&mut text, line);
                self.last = line.to_vec();
            }
            self.address = self.address.wrapping_add(u64::try_from(line.len()).unwrap_or(0));
        }
        text
    }

    fn line(&self, text: &mut String, line: &[u8]) {
        // Writing to a string cannot fail.
        let _ = write!(text, "{:08x} ", self.address);
        for column in 0..16 {
            if column % 8 == 0 {
                text.push(' ');
            }
            let _ = match line.get(column) {
                Some(byte) => write!(text, "{byte:02x} "),
                None => write!(text, "   "),
            };
        }
        let shown = line.iter().map(|byte| if (0x20..0x7f).contains(byte) { char::from(*byte) } else { '.' });
        let _ = writeln!(text, " |{}|", shown.collect::<String>());
    }

    /// Returns the final line: the address after the last byte.
    fn end(&self) -> String {
        format!("{:08x}\n", self.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dump_looks_like_that_of_hexdump() {
        let mut dump = HexDump::new(0x1000);
        let mut text = dump.lines(b"Hello, world!\n\0\0");
        text += &dump.lines(&[0; 64]);
        text += &dump.lines(&[0xff, b'|']);
        text += &dump.end();
        assert_eq!(
            text,
            "\
00001000  48 65 6c 6c 6f 2c 20 77  6f 72 6c 64 21 0a 00 00  |Hello, world!...|
00001010  00 00 00 00 00 00 00 00  00 00 00 00 00 00 00 00  |................|
*
00001050  ff 7c                                             |.||
00001052
"
        );
    }
}
