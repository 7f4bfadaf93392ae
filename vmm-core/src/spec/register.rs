//! General registers, RIP and RFLAGS by name: the registers that a configuration can preset and check, and that a report
//! shows.

use kvm_sys_wrap::bindings::kvm_regs;

pub use vmm_loader::Register;

/// Set of registers that can be read and written by name, such as a `kvm_regs`.
pub trait RegisterFile {
    /// Returns the value of a register.
    fn get(&self, register: Register) -> u64;

    /// Sets the value of a register.
    fn set(&mut self, register: Register, value: u64);
}

macro_rules! register_file {
    ($($register:ident = $field:ident,)*) => {
        impl RegisterFile for kvm_regs {
            fn get(&self, register: Register) -> u64 {
                match register { $(Register::$register => self.$field,)* }
            }

            fn set(&mut self, register: Register, value: u64) {
                match register { $(Register::$register => self.$field = value,)* }
            }
        }
    };
}

register_file! {
    Rax = rax,
    Rbx = rbx,
    Rcx = rcx,
    Rdx = rdx,
    Rsi = rsi,
    Rdi = rdi,
    Rbp = rbp,
    Rsp = rsp,
    R8 = r8,
    R9 = r9,
    R10 = r10,
    R11 = r11,
    R12 = r12,
    R13 = r13,
    R14 = r14,
    R15 = r15,
    Rip = rip,
    Rflags = rflags,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_reads_its_own_field() {
        let regs = kvm_regs { rax: 1, r15: 2, rip: 3, rflags: 4, ..Default::default() };
        let value = |name| {
            let register = Register::ALL.iter().find(|register| register.name() == name);
            register.map(|register| regs.get(*register))
        };
        assert_eq!(["rax", "r15", "rip", "rflags"].map(value), [Some(1), Some(2), Some(3), Some(4)]);
        assert_eq!(value("rbx"), Some(0));
        let mut copy = kvm_regs::default();
        for register in Register::ALL {
            copy.set(*register, regs.get(*register));
        }
        assert_eq!(copy, regs);
    }
}
