//! Test of the saved form of [`MachineState`], [`HostIdentity`] and the devices against the golden file of [`STATE_VERSION`].
//!
//! The form is a list of the values that the encoding holds, in order: their types and their paths. It is found by decoding
//! each type from a deserializer that supplies a value for whatever is asked of it, so that every `Option` is there and every
//! sequence has an element.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::Path;
use std::{env, fs};

use serde::de::value::{Error, U32Deserializer};
use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, EnumAccess, Error as _, IntoDeserializer, SeqAccess,
    VariantAccess, Visitor,
};

use super::{HostIdentity, MachineState, STATE_VERSION};
use crate::cpu::exit_counts::ExitKind;
use crate::devices::{DeviceKind, acpi_pm, crtc, fw_cfg, hypercall, i8042, rtc, serial, virtio};

/// A saved value.
#[derive(Clone, PartialEq)]
struct Line {
    /// Its type in the encoding.
    kind: String,
    /// The names that lead to it.
    path: String,
}

/// Deserializer that supplies a value of each type and notes the type.
#[derive(Clone)]
struct Tracer<'a> {
    path: String,
    lines: &'a RefCell<Vec<Line>>,
}

impl Tracer<'_> {
    fn note(&self, kind: impl Into<String>) {
        self.lines.borrow_mut().push(Line { kind: kind.into(), path: self.path.clone() });
    }

    fn inner(&self, name: impl std::fmt::Display) -> Self {
        Self { path: format!("{}{name}", self.path), lines: self.lines }
    }
}

macro_rules! scalars {
    ($($method:ident $kind:literal $visit:ident $value:expr;)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            self.note($kind);
            visitor.$visit($value)
        })*
    };
}

macro_rules! unsupported {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
            Err(Error::custom(concat!("no form: ", stringify!($method))))
        })*
    };
}

impl<'de> Deserializer<'de> for Tracer<'_> {
    type Error = Error;

    scalars! {
        deserialize_bool "bool" visit_bool true;
        deserialize_u8 "u8" visit_u8 1;
        deserialize_u16 "u16" visit_u16 1;
        deserialize_u32 "u32" visit_u32 1;
        deserialize_u64 "u64" visit_u64 1;
        deserialize_i8 "i8" visit_i8 1;
        deserialize_i16 "i16" visit_i16 1;
        deserialize_i32 "i32" visit_i32 1;
        deserialize_i64 "i64" visit_i64 1;
        deserialize_str "text" visit_str "text";
        deserialize_string "text" visit_str "text";
        deserialize_bytes "bytes" visit_bytes &[1];
        deserialize_byte_buf "bytes" visit_bytes &[1];
    }

    unsupported! {
        deserialize_any deserialize_f32 deserialize_f64 deserialize_char deserialize_unit deserialize_map
        deserialize_identifier deserialize_ignored_any
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.note("option");
        visitor.visit_some(self.inner("?"))
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, _: V) -> Result<V::Value, Error> {
        Err(Error::custom("no form: unit struct"))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.note("list");
        visitor.visit_seq(Items { tracer: self, names: vec!["[]".to_owned()].into_iter() })
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value, Error> {
        let names: Vec<String> = (0..length).map(|index| format!(".{index}")).collect();
        visitor.visit_seq(Items { tracer: self, names: names.into_iter() })
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_tuple(length, visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let names: Vec<String> = fields.iter().map(|name| format!(".{name}")).collect();
        visitor.visit_seq(Items { tracer: self, names: names.into_iter() })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        for (index, name) in variants.iter().enumerate() {
            self.inner(format_args!("::{name}")).note(format!("={index}"));
        }
        visitor.visit_enum(First)
    }

    fn is_human_readable(&self) -> bool {
        false
    }
}

/// The parts of a struct, a tuple or a sequence.
struct Items<'a> {
    tracer: Tracer<'a>,
    names: std::vec::IntoIter<String>,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        self.names.next().map(|name| seed.deserialize(self.tracer.inner(name))).transpose()
    }
}

/// The first variant of an enum, which has no data: an enum with data needs more here.
struct First;

impl<'de> EnumAccess<'de> for First {
    type Error = Error;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Error> {
        let first: U32Deserializer<Error> = 0_u32.into_deserializer();
        Ok((seed.deserialize(first)?, self))
    }
}

impl<'de> VariantAccess<'de> for First {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, _: T) -> Result<T::Value, Error> {
        Err(Error::custom("no form: enum with data"))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, Error> {
        Err(Error::custom("no form: enum with data"))
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], _: V) -> Result<V::Value, Error> {
        Err(Error::custom("no form: enum with data"))
    }
}

/// Adds the form of `T` to `lines`, under `name`.
fn trace<T: for<'de> Deserialize<'de>>(lines: &RefCell<Vec<Line>>, name: &str) {
    T::deserialize(Tracer { path: name.to_owned(), lines }).unwrap();
}

/// Adds the form of a device. A new one does not compile until it has a line here.
fn trace_device(lines: &RefCell<Vec<Line>>, kind: DeviceKind) {
    match kind {
        DeviceKind::Serial => trace::<serial::SavedSerial>(lines, "serial"),
        DeviceKind::Hypercall => trace::<hypercall::Registers>(lines, "hypercall"),
        DeviceKind::Rtc => trace::<rtc::SavedRtc>(lines, "rtc"),
        DeviceKind::I8042 => trace::<i8042::I8042>(lines, "i8042"),
        DeviceKind::Power => trace::<acpi_pm::SavedAcpiPm>(lines, "power"),
        DeviceKind::ResetControl => trace::<u8>(lines, "reset-control"),
        DeviceKind::SystemControl => trace::<u8>(lines, "system-control"),
        DeviceKind::Crtc => trace::<crtc::Crtc>(lines, "crtc"),
        DeviceKind::FwCfg => trace::<fw_cfg::SavedFwCfg>(lines, "fw-cfg"),
        DeviceKind::TestPorts => trace::<Vec<u8>>(lines, "kvm-testdev ports"),
        DeviceKind::TestMemory => trace::<Vec<u8>>(lines, "kvm-testdev memory"),
        DeviceKind::VirtioBlock => trace::<virtio::SavedVirtio>(lines, "virtio"),
        // All virtio devices have the same form.
        DeviceKind::VirtioConsole | DeviceKind::VirtioEntropy => {}
        DeviceKind::DebugConsole => stateless(lines, "debug-console"),
        DeviceKind::DebugExit => stateless(lines, "debug-exit"),
        DeviceKind::Diagnostic => stateless(lines, "diagnostic port"),
        DeviceKind::Delay => stateless(lines, "delay port"),
        DeviceKind::PciAddress => stateless(lines, "PCI address port"),
        DeviceKind::PciData => stateless(lines, "PCI data ports"),
        DeviceKind::TestLines => stateless(lines, "kvm-testdev lines"),
    }
}

/// Adds the form of a device that saves no bytes.
fn stateless(lines: &RefCell<Vec<Line>>, name: &str) {
    lines.borrow_mut().push(Line { kind: "nothing".to_owned(), path: name.to_owned() });
}

fn form() -> Vec<Line> {
    let lines = RefCell::new(Vec::new());
    trace::<HostIdentity>(&lines, "host");
    trace::<MachineState>(&lines, "machine");
    for (index, kind) in ExitKind::ALL.iter().enumerate() {
        let path = format!("exits::{}", kind.name());
        lines.borrow_mut().push(Line { kind: format!("={index}"), path });
    }
    for kind in DeviceKind::ALL {
        trace_device(&lines, *kind);
    }
    merged(lines.into_inner())
}

/// Makes one line of equal values that are numbered in a row.
fn merged(lines: Vec<Line>) -> Vec<Line> {
    let mut result: Vec<(Line, usize)> = Vec::new();
    for line in lines {
        let next = |(first, count): &(Line, usize)| {
            let (stem, number) = first.path.rsplit_once('.')?;
            let number = number.parse::<usize>().ok()?;
            Some(format!("{stem}.{}", number + count))
        };
        match result.last_mut() {
            Some(last) if last.0.kind == line.kind && next(last).is_some_and(|path| path == line.path) => {
                last.1 += 1;
            }
            _ => result.push((line, 1)),
        }
    }
    let name = |(Line { kind, path }, count): (Line, usize)| match count {
        1 => Line { kind, path },
        _ => Line { kind: format!("{kind} x {count}"), path },
    };
    result.into_iter().map(name).collect()
}

/// Returns the first name of a line's path: the device, or `host`, `machine` or `exits`.
fn root(line: &str) -> &str {
    let path = line.split_once('\t').map_or(line, |(_, path)| path);
    path.split(['.', ':', '[', '?']).next().unwrap_or(path)
}

fn kinds(text: &str) -> Vec<&str> {
    text.lines().map(|line| line.split_once('\t').map_or(line, |(kind, _)| kind)).collect()
}

fn names(text: &str) -> Vec<&str> {
    text.lines().filter_map(|line| line.split_once('\t')).map(|(_, path)| path).collect()
}

/// Fails when the form changes and `STATE_VERSION` does not. The form of a new device is no change: no saved machine has one.
#[test]
fn a_changed_form_has_a_new_version() {
    let found: String = form().iter().map(|Line { kind, path }| format!("{kind}\t{path}\n")).collect();
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/saved-form");
    let path = directory.join(format!("{STATE_VERSION}.txt"));
    let update = env::var_os("UPDATE_GOLDEN").is_some();
    match fs::read_to_string(&path) {
        Ok(golden) if golden == found => {}
        Ok(golden) => {
            let raise = "raise `snapshot::STATE_VERSION`, then run this test with UPDATE_GOLDEN=1";
            let roots: BTreeSet<&str> = golden.lines().map(root).collect();
            let of_known: String =
                found.split_inclusive('\n').filter(|line| roots.contains(root(line.trim_end()))).collect();
            assert_eq!(kinds(&golden), kinds(&of_known), "the saved form has changed: {raise}");
            let (old, new) = (names(&golden), names(&of_known));
            let is_moved = |index: usize| {
                new.iter().position(|name| Some(name) == old.get(index)).is_some_and(|at| at != index)
            };
            let moved = (0..old.len()).find(|index| is_moved(*index)).map(|index| old[index]);
            assert_eq!(moved, None, "a saved value is at another position: {raise}");
            assert!(
                update,
                "names have changed in the saved form, or there is a new device: run this test with UPDATE_GOLDEN=1\n{found}"
            );
            fs::write(&path, found).unwrap();
        }
        Err(_) => {
            assert!(update, "{} is missing: run this test with UPDATE_GOLDEN=1", path.display());
            fs::create_dir_all(&directory).unwrap();
            fs::write(&path, found).unwrap();
        }
    }
    let files = fs::read_dir(&directory).unwrap().count();
    assert_eq!(files, 1, "remove the forms of older versions from {}", directory.display());
}
