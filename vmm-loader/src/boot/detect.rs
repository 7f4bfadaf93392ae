//! What a file offers, and which of it is taken.
//!
//! Only headers are looked at here, so this is quick on files of any size; the image itself is checked when it is planned.

use super::error::BootError;
use super::foreign::{Foreign, foreign};
use super::protocol::Protocol;
use super::{boot_sector, linux, multiboot, multiboot2, notes, pvh};
use crate::error::LoadError;
use crate::header::{Headers, is_elf};

/// One way to start a file.
#[derive(Debug)]
pub struct Offer {
    /// The protocol.
    pub protocol: Protocol,
    /// What in the file offers it: `header at 0x1000`.
    pub what: String,
    /// Why it cannot be taken, where it cannot.
    pub problem: Option<BootError>,
}

/// All that a file offers, the best first.
#[derive(Debug)]
pub struct Findings {
    /// The ways to start it.
    pub offers: Vec<Offer>,
    /// What looks like a header and is none.
    pub damaged: Vec<BootError>,
    /// What the file is, where it offers nothing.
    foreign: Option<BootError>,
}

/// Looks at a file.
#[must_use]
pub fn detect(file: &[u8]) -> Findings {
    let mut offers = Vec::new();
    let mut offer = |protocol, what: String, problem: Option<BootError>| {
        offers.push(Offer { protocol, what, problem });
    };
    let headers = is_elf(file).then(|| Headers::read(file));
    let bzimage = linux::is_bzimage(file);
    if bzimage {
        offer(Protocol::Linux, linux::describe(file), linux::check(file).err().map(BootError::from));
    }
    // A file for another CPU may hold anything; what looks like a header for x86 in it is chance.
    let other_cpu = matches!(headers, Some(Err(_)));
    if let Some(place) = multiboot2::find(file).filter(|_| !other_cpu && !bzimage) {
        let problem = multiboot2::check(file).err().map(BootError::from);
        offer(Protocol::Multiboot2, format!("header at {place:#x}"), problem);
    }
    if let Some(place) = multiboot::find(file).filter(|_| !other_cpu && !bzimage) {
        let problem = multiboot::check(file).err().map(BootError::from);
        offer(Protocol::Multiboot, format!("header at {place:#x}"), problem);
    }
    let mut refusal = None;
    match headers {
        Some(Ok(headers)) => {
            let notes = notes::read(file, &headers);
            if pvh::note(&notes).is_some() {
                let entry = pvh::entry(&notes);
                let what = entry.as_ref().map_or_else(|_| "note".to_owned(), |at| format!("note, entry {at:#x}"));
                offer(Protocol::Pvh, what, entry.err().map(BootError::from));
            }
            if linux::is_vmlinux(&notes) {
                offer(Protocol::Linux, format!("vmlinux, {}", headers.class), None);
            }
            offer(Protocol::Elf, headers.class.to_string(), None);
        }
        Some(Err(error)) => refusal = Some(LoadError::from(error).into()),
        None => {}
    }
    if boot_sector::check(file).is_ok() && offers.is_empty() {
        offers.push(Offer { protocol: Protocol::BootSector, what: "55 aa at 510".to_owned(), problem: None });
    }
    let mut damaged = Vec::new();
    if !other_cpu {
        damaged.extend(multiboot2::find_damaged(file).map(BootError::from));
        damaged.extend(multiboot::find_damaged(file).map(BootError::from));
    }
    let foreign = match refusal {
        Some(error) => Some(error),
        None if offers.is_empty() => Some(BootError::Foreign(foreign(file))),
        None => None,
    };
    Findings { offers, damaged, foreign }
}

impl Findings {
    /// The protocol to start the file by, if the user names none.
    ///
    /// The first offer that can be taken. A plain ELF file is entered as such only where nothing in it asks for more:
    /// a kernel whose header cannot be satisfied would not find what it needs.
    ///
    /// # Errors
    /// What the file is, if it is no kernel; else why nothing in it can be taken.
    pub fn choose(self) -> Result<Protocol, BootError> {
        if let Some(error) = self.foreign {
            return Err(error);
        }
        let asks_for_more = self.offers.iter().any(|offer| !offer.protocol.is_plain());
        let mut problems = Vec::new();
        for offer in self.offers {
            match offer.problem {
                Some(problem) => problems.push(problem),
                None if offer.protocol.is_plain() && asks_for_more => {}
                None => return Ok(offer.protocol),
            }
        }
        problems.extend(self.damaged);
        Err(match problems.pop() {
            Some(only) if problems.is_empty() => only,
            Some(last) => {
                BootError::NothingFits(problems.iter().chain([&last]).map(ToString::to_string).collect())
            }
            None => BootError::Foreign(Foreign { what: "nothing that could be started".to_owned(), help: None }),
        })
    }

    /// What was found, in words: `multiboot (header at 0x1000)`.
    #[must_use]
    pub fn words(&self) -> Vec<String> {
        let offers = self.offers.iter().map(|Offer { protocol, what, problem }| match problem {
            Some(problem) => format!("{protocol} ({what}), which cannot be taken: {problem}"),
            None => format!("{protocol} ({what})"),
        });
        offers.chain(self.damaged.iter().map(|error| format!("not to be taken: {error}"))).collect()
    }
}
