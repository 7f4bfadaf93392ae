//! x86-64 general registers, RIP and RFLAGS by name.

use std::fmt;

macro_rules! registers {
    ($($register:ident = $name:literal,)*) => {
        /// General register, RIP or RFLAGS: the registers of `KVM_GET_REGS` and `KVM_SET_REGS`.
        ///
        /// Exhaustive: code that copies registers must not miss one.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "lowercase"))]
        #[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
        pub enum Register {
            $(
                #[doc = concat!("Register `", $name, "`.")]
                $register,
            )*
        }

        impl Register {
            /// All registers: RAX, RBX, RCX, RDX, RSI, RDI, RBP, RSP, R8 to R15, RIP, RFLAGS.
            pub const ALL: &'static [Self] = &[$(Self::$register,)*];

            /// Returns the lower-case name, such as `rax`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$register => $name,)* }
            }
        }
    };
}

registers! {
    Rax = "rax",
    Rbx = "rbx",
    Rcx = "rcx",
    Rdx = "rdx",
    Rsi = "rsi",
    Rdi = "rdi",
    Rbp = "rbp",
    Rsp = "rsp",
    R8 = "r8",
    R9 = "r9",
    R10 = "r10",
    R11 = "r11",
    R12 = "r12",
    R13 = "r13",
    R14 = "r14",
    R15 = "r15",
    Rip = "rip",
    Rflags = "rflags",
}

impl Register {
    /// Returns true for R8 to R15, which only 64-bit code can use.
    #[must_use]
    pub const fn is_64_bit_only(self) -> bool {
        match self {
            Self::R8 | Self::R9 | Self::R10 | Self::R11 | Self::R12 | Self::R13 | Self::R14 | Self::R15 => {
                true
            }
            Self::Rax | Self::Rbx | Self::Rcx | Self::Rdx | Self::Rsi | Self::Rdi | Self::Rbp | Self::Rsp => {
                false
            }
            Self::Rip | Self::Rflags => false,
        }
    }
}

/// Writes the lower-case name.
impl fmt::Display for Register {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(all(test, feature = "serde"))]
mod tests {
    use super::*;

    #[test]
    fn serialization_uses_the_names() {
        for register in Register::ALL {
            assert_eq!(serde_json::to_string(register).unwrap(), format!("\"{register}\""));
        }
    }
}
