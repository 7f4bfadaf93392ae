//! General registers, RIP and RFLAGS by name, for presets, expectations and reports.

use kvm_sys_wrap::bindings::kvm_regs;

macro_rules! registers {
    ($($register:ident = $field:ident,)*) => {
        /// Register of `struct kvm_regs`.
        #[expect(missing_docs, reason = "the names say all")]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Register { $($register,)* }

        impl Register {
            /// All registers, in the order of reports.
            pub const ALL: &'static [Self] = &[$(Self::$register,)*];

            /// Returns the lower-case name used in configuration files and messages.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$register => stringify!($field),)* }
            }

            /// Returns the register's value in `regs`.
            #[must_use]
            pub const fn of(self, regs: &kvm_regs) -> u64 {
                match self { $(Self::$register => regs.$field,)* }
            }

            /// Sets the register's value in `regs`.
            pub const fn set(self, regs: &mut kvm_regs, value: u64) {
                match self { $(Self::$register => regs.$field = value,)* }
            }
        }
    };
}

registers! {
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
        let of = |name| Register::ALL.iter().find(|register| register.name() == name).map(|r| r.of(&regs));
        assert_eq!([of("rax"), of("r15"), of("rip"), of("rflags")], [Some(1), Some(2), Some(3), Some(4)]);
        assert_eq!(of("rbx"), Some(0));
        let mut copy = kvm_regs::default();
        for register in Register::ALL {
            register.set(&mut copy, register.of(&regs));
        }
        assert_eq!(copy, regs);
    }
}
