//! Identity of a host, as far as it decides whether a snapshot can be restored there.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

/// Properties of a host that decide if a snapshot can be restored on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostIdentity {
    /// Name of the KVM module: `kvm_intel`, `kvm_amd` or `kvm_pvm`.
    pub kvm: String,
    /// Vendor of the host's CPU, from CPUID.
    pub vendor: String,
    /// Model name of the host's CPU.
    pub cpu: String,
}

impl HostIdentity {
    /// Returns the identity of the host that this program runs on. Reads files the first time only.
    ///
    /// # Errors
    /// `/proc/cpuinfo` or `/sys/module` cannot be read.
    pub fn this() -> io::Result<Self> {
        static THIS: OnceLock<HostIdentity> = OnceLock::new();
        if let Some(this) = THIS.get() {
            return Ok(this.clone());
        }
        let this = Self::read()?;
        Ok(THIS.get_or_init(|| this).clone())
    }

    fn read() -> io::Result<Self> {
        let mut module = None;
        for name in ["kvm_intel", "kvm_amd", "kvm_pvm"] {
            if module.is_none() && Path::new("/sys/module").join(name).try_exists()? {
                module = Some(name);
            }
        }
        let cpus = fs::read_to_string("/proc/cpuinfo")?;
        let value = |wanted: &str| {
            let found =
                cpus.lines().filter_map(|line| line.split_once(':')).find(|(key, _)| key.trim() == wanted);
            found.map_or_else(|| "unknown".to_owned(), |(_, value)| value.trim().to_owned())
        };
        Ok(Self {
            kvm: module.unwrap_or("unknown").to_owned(),
            vendor: value("vendor_id"),
            cpu: value("model name"),
        })
    }

    /// Returns the reason why a snapshot that was taken here cannot be restored on `other`; `None` if it can. The CPU features
    /// that the guest uses are checked elsewhere ([`super::Snapshot::missing_features`]).
    #[must_use]
    pub fn refuses(&self, other: &Self) -> Option<String> {
        if self.vendor != other.vendor {
            let Self { vendor, cpu, .. } = self;
            return Some(format!(
                "it was taken on a CPU of {vendor} ({cpu}), and this is one of {}",
                other.vendor
            ));
        }
        (self.kvm != other.kvm)
            .then(|| format!("it was taken with {}, and this host has {}", self.kvm, other.kvm))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_maker_and_another_kvm_are_refused_and_another_model_is_not() {
        let host = |kvm: &str, vendor: &str, cpu: &str| HostIdentity {
            kvm: kvm.to_owned(),
            vendor: vendor.to_owned(),
            cpu: cpu.to_owned(),
        };
        let amd = host("kvm_amd", "AuthenticAMD", "EPYC");
        assert_eq!(amd.refuses(&host("kvm_amd", "AuthenticAMD", "Ryzen")), None);
        assert_eq!(
            amd.refuses(&host("kvm_intel", "GenuineIntel", "Xeon")).unwrap(),
            "it was taken on a CPU of AuthenticAMD (EPYC), and this is one of GenuineIntel"
        );
        assert_eq!(
            amd.refuses(&host("kvm_pvm", "AuthenticAMD", "EPYC")).unwrap(),
            "it was taken with kvm_amd, and this host has kvm_pvm"
        );
    }

    #[test]
    fn this_host_takes_what_it_gave() {
        assert_eq!(HostIdentity::this().unwrap().refuses(&HostIdentity::this().unwrap()), None);
    }
}
