//! Target description for gdb (gdb manual, appendix G).
//!
//! There is one for each code width. Each has the features that gdb knows by name, `org.gnu.gdb.i386.core` and `.sse`,
//! and a feature with control registers and segment bases. gdb reads the description when it attaches, so the width
//! does not change during a session.

use std::fmt::Write as _;

use vmm_core::cpu::control_regs::{ControlBit, Cr0, Cr4, Efer};
use vmm_core::cpu::cpu_state::{OperandWidth, operand_width};
use vmm_core::kvm_sys_wrap::bindings::kvm_sregs;

/// Layout of the registers in packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RegisterLayout {
    /// Code width that gdb disassembles.
    pub(super) code: OperandWidth,
}

/// Register of a target description.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DescribedRegister {
    pub(super) name: &'static str,
    pub(super) bits: u16,
    kind: &'static str,
    group: &'static str,
}

const fn register(
    name: &'static str,
    bits: u16,
    kind: &'static str,
    group: &'static str,
) -> DescribedRegister {
    DescribedRegister { name, bits, kind, group }
}

const NAMES_64: [&str; 16] = [
    "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
    "r15",
];
const NAMES_32: [&str; 8] = ["eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi"];
const SEGMENTS: [&str; 6] = ["cs", "ss", "ds", "es", "fs", "gs"];
const STACK: [&str; 8] = ["st0", "st1", "st2", "st3", "st4", "st5", "st6", "st7"];
const FPU: [&str; 8] = ["fctrl", "fstat", "ftag", "fiseg", "fioff", "foseg", "fooff", "fop"];
const XMM: [&str; 16] = [
    "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11",
    "xmm12", "xmm13", "xmm14", "xmm15",
];

/// Registers of the feature `org.vmm.x86.control`.
pub(super) const CONTROL: [DescribedRegister; 12] = [
    register("cr0", 64, "cr0_bits", "control"),
    register("cr2", 64, "uint64", "control"),
    register("cr3", 64, "uint64", "control"),
    register("cr4", 64, "cr4_bits", "control"),
    register("efer", 64, "efer_bits", "control"),
    register("cs_base", 64, "uint64", "control"),
    register("ss_base", 64, "uint64", "control"),
    register("ds_base", 64, "uint64", "control"),
    register("es_base", 64, "uint64", "control"),
    register("fs_base", 64, "uint64", "control"),
    register("gs_base", 64, "uint64", "control"),
    register("ip", 64, "uint64", "control"),
];

impl RegisterLayout {
    /// Returns the layout for the current mode of a vCPU, or the 64-bit one if `wide`: the guest's file has 64-bit code.
    pub(super) fn from_sregs(sregs: &kvm_sregs, wide: bool) -> Self {
        Self { code: if wide { OperandWidth::Bits64 } else { operand_width(sregs) } }
    }

    /// Returns true if registers have 64 bits.
    pub(super) const fn is_wide(self) -> bool {
        matches!(self.code, OperandWidth::Bits64)
    }

    /// Returns all registers in the order of packets.
    pub(super) fn registers(self) -> Vec<DescribedRegister> {
        let [core, sse] = self.features();
        core.into_iter().chain(sse).chain(CONTROL).collect()
    }

    /// Returns the registers of the features that gdb knows.
    fn features(self) -> [Vec<DescribedRegister>; 2] {
        let bits = if self.is_wide() { 64 } else { 32 };
        let general = |name: &'static str| match name {
            "rsp" | "esp" => register(name, bits, "data_ptr", "general"),
            "rbp" | "ebp" if bits == 64 => register(name, bits, "data_ptr", "general"),
            name => register(name, bits, if bits == 64 { "int64" } else { "int32" }, "general"),
        };
        let names: &[&'static str] = if self.is_wide() { &NAMES_64 } else { &NAMES_32 };
        let mut core: Vec<DescribedRegister> = names.iter().map(|name| general(name)).collect();
        core.push(register(if self.is_wide() { "rip" } else { "eip" }, bits, "code_ptr", "general"));
        core.push(register("eflags", 32, "i386_eflags", "general"));
        core.extend(SEGMENTS.map(|name| register(name, 32, "int32", "general")));
        core.extend(STACK.map(|name| register(name, 80, "i387_ext", "float")));
        core.extend(FPU.map(|name| register(name, 32, "int", "float")));
        let count = if self.is_wide() { 16 } else { 8 };
        let mut sse: Vec<DescribedRegister> =
            XMM.iter().take(count).map(|name| register(name, 128, "vec128", "vector")).collect();
        sse.push(register("mxcsr", 32, "i386_mxcsr", "vector"));
        [core, sse]
    }

    /// Returns the XML that gdb requests as `target.xml`.
    pub(super) fn description(self) -> String {
        let architecture = match self.code {
            OperandWidth::Bits16 => "i8086",
            OperandWidth::Bits32 => "i386",
            OperandWidth::Bits64 => "i386:x86-64",
        };
        let [core, sse] = self.features();
        let mut xml = String::from("<?xml version=\"1.0\"?>\n<!DOCTYPE target SYSTEM \"gdb-target.dtd\">\n");
        // Writing to a string cannot fail.
        let _ = writeln!(
            xml,
            "<target version=\"1.0\">\n<architecture>{architecture}</architecture>\n<osabi>none</osabi>"
        );
        feature(&mut xml, "org.gnu.gdb.i386.core", EFLAGS, &core);
        feature(&mut xml, "org.gnu.gdb.i386.sse", VECTORS, &sse);
        let types = [("cr0_bits", Cr0::BITS), ("cr4_bits", Cr4::BITS), ("efer_bits", Efer::BITS)]
            .map(|(id, bits)| flags(id, bits))
            .concat();
        feature(&mut xml, "org.vmm.x86.control", &types, &CONTROL);
        xml.push_str("</target>\n");
        xml
    }
}

fn feature(xml: &mut String, name: &str, types: &str, registers: &[DescribedRegister]) {
    let _ = writeln!(xml, "<feature name=\"{name}\">\n{types}");
    for DescribedRegister { name, bits, kind, group } in registers {
        let _ = writeln!(xml, "<reg name=\"{name}\" bitsize=\"{bits}\" type=\"{kind}\" group=\"{group}\"/>");
    }
    xml.push_str("</feature>\n");
}

/// Returns an XML type that shows a register by the names of its set bits.
fn flags(id: &str, bits: &[ControlBit]) -> String {
    let mut xml = format!("<flags id=\"{id}\" size=\"8\">\n");
    for ControlBit { number, name, .. } in bits {
        let _ = writeln!(xml, "<field name=\"{name}\" start=\"{number}\" end=\"{number}\"/>");
    }
    xml.push_str("</flags>\n");
    xml
}

/// EFLAGS type of gdb's own i386 description.
const EFLAGS: &str = r#"<flags id="i386_eflags" size="4">
<field name="" start="22" end="31"/><field name="CF" start="0" end="0"/><field name="" start="1" end="1"/>
<field name="PF" start="2" end="2"/><field name="AF" start="4" end="4"/><field name="ZF" start="6" end="6"/>
<field name="SF" start="7" end="7"/><field name="TF" start="8" end="8"/><field name="IF" start="9" end="9"/>
<field name="DF" start="10" end="10"/><field name="OF" start="11" end="11"/><field name="NT" start="14" end="14"/>
<field name="RF" start="16" end="16"/><field name="VM" start="17" end="17"/><field name="AC" start="18" end="18"/>
<field name="VIF" start="19" end="19"/><field name="VIP" start="20" end="20"/><field name="ID" start="21" end="21"/>
</flags>"#;

/// Vector and MXCSR types of gdb's own i386 description.
const VECTORS: &str = r#"<vector id="v4f" type="ieee_single" count="4"/><vector id="v2d" type="ieee_double" count="2"/>
<vector id="v16i8" type="int8" count="16"/><vector id="v8i16" type="int16" count="8"/>
<vector id="v4i32" type="int32" count="4"/><vector id="v2i64" type="int64" count="2"/>
<union id="vec128">
<field name="v4_float" type="v4f"/><field name="v2_double" type="v2d"/><field name="v16_int8" type="v16i8"/>
<field name="v8_int16" type="v8i16"/><field name="v4_int32" type="v4i32"/><field name="v2_int64" type="v2i64"/>
<field name="uint128" type="uint128"/>
</union>
<flags id="i386_mxcsr" size="4">
<field name="IE" start="0" end="0"/><field name="DE" start="1" end="1"/><field name="ZE" start="2" end="2"/>
<field name="OE" start="3" end="3"/><field name="UE" start="4" end="4"/><field name="PE" start="5" end="5"/>
<field name="DAZ" start="6" end="6"/><field name="IM" start="7" end="7"/><field name="DM" start="8" end="8"/>
<field name="ZM" start="9" end="9"/><field name="OM" start="10" end="10"/><field name="UM" start="11" end="11"/>
<field name="PM" start="12" end="12"/><field name="FZ" start="15" end="15"/>
</flags>"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_known_registers_have_the_numbers_that_gdb_gives_them() {
        let number =
            |code, name| RegisterLayout { code }.registers().iter().position(|r| r.name == name).unwrap();
        assert_eq!((number(OperandWidth::Bits64, "rip"), number(OperandWidth::Bits64, "st0")), (16, 24));
        assert_eq!((number(OperandWidth::Bits64, "xmm0"), number(OperandWidth::Bits64, "mxcsr")), (40, 56));
        assert_eq!((number(OperandWidth::Bits16, "eip"), number(OperandWidth::Bits32, "xmm0")), (8, 32));
    }

    #[test]
    fn every_type_of_the_control_registers_is_described() {
        let xml = RegisterLayout { code: OperandWidth::Bits16 }.description();
        assert!(xml.contains("<architecture>i8086</architecture>"));
        for DescribedRegister { kind, .. } in
            CONTROL.iter().filter(|register| register.kind.ends_with("_bits"))
        {
            assert!(xml.contains(&format!("<flags id=\"{kind}\"")), "{kind}");
        }
    }
}
