//! Plain numbers: counts, and the privilege ring.

use super::{ParseError, Value, value_in_toml};

/// Integer that is not negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Count(pub u64);

impl Value for Count {
    const EXPECTED: &'static str = "a whole number that is not below 0";

    fn from_integer(value: u64) -> Result<Self, ParseError> {
        Ok(Self(value))
    }
}

value_in_toml!(Count, { "type": "integer", "minimum": 0 });

/// Privilege level that the guest starts at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RingLevel(pub vmm_core::spec::mode::Ring);

impl Value for RingLevel {
    const EXPECTED: &'static str = "ring 0 or 3";

    fn from_integer(value: u64) -> Result<Self, ParseError> {
        match value {
            0 => Ok(Self(vmm_core::spec::mode::Ring::Kernel)),
            3 => Ok(Self(vmm_core::spec::mode::Ring::User)),
            1 | 2 => Err(ParseError::new(format!("ring {value} is not supported"))
                .help("use 0 for a kernel or 3 for a user program")),
            _ => Err(ParseError::new(format!("there is no ring {value}"))
                .help("use 0 for a kernel or 3 for a user program")),
        }
    }
}

value_in_toml!(RingLevel, {
    "description": "A privilege level: 0 for a kernel, 3 for a user program.",
    "enum": [0, 3]
});

#[cfg(test)]
mod tests {
    use vmm_core::spec::mode::Ring;

    use super::*;

    #[test]
    fn only_rings_zero_and_three() {
        assert_eq!(RingLevel::from_integer(0), Ok(RingLevel(Ring::Kernel)));
        assert_eq!(RingLevel::from_integer(3), Ok(RingLevel(Ring::User)));
        assert_eq!(RingLevel::from_integer(1).unwrap_err().message, "ring 1 is not supported");
        assert_eq!(RingLevel::from_integer(4).unwrap_err().message, "there is no ring 4");
        assert_eq!(
            RingLevel::from_text("0").unwrap_err().message,
            "expected ring 0 or 3, found string \"0\""
        );
    }
}
