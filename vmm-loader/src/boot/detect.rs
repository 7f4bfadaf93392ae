//! What a file offers, and which of it is taken.
//!
//! Only headers are looked at here, so this is quick on files of any size; the image itself is checked when it is planned.

use super::error::BootError;
use super::file_type::FileType;
use super::multiboot::MultibootError;
use super::multiboot2::Multiboot2Error;
use super::{boot_sector, linux, multiboot, multiboot2, pvh};
use crate::elf::header::{ElfHeaders, is_elf};
use crate::elf::notes;
use crate::elf::{self, ElfOptions};
use crate::error::LoadError;
use crate::protocol::Protocol;

/// One way to start a file.
#[derive(Debug)]
pub struct Candidate {
    /// The protocol.
    pub protocol: Protocol,
    /// What in the file offers it: `header at 0x1000`.
    pub what: String,
    /// Why it cannot be taken, where it cannot.
    pub problem: Option<BootError>,
}

impl Candidate {
    fn new<T, E: Into<BootError>>(protocol: Protocol, what: String, checked: Result<T, E>) -> Self {
        Self { protocol, what, problem: checked.err().map(Into::into) }
    }
}

/// All that a file offers, the best first.
#[derive(Debug)]
pub struct Detection {
    /// The ways to start it.
    pub offers: Vec<Candidate>,
    /// What looks like a header and is none.
    pub damaged: Vec<BootError>,
    /// What the file is, where it offers nothing.
    foreign: Option<BootError>,
}

/// Looks at a file.
#[must_use]
pub fn detect(file: &[u8]) -> Detection {
    let mut offers = Vec::new();
    let headers = is_elf(file).then(|| ElfHeaders::read(file));
    let bzimage = linux::is_bzimage(file);
    if bzimage {
        offers.push(Candidate::new(Protocol::Linux, linux::describe(file), linux::check(file)));
    }
    // A file for another CPU may hold anything; what looks like a header for x86 in it is chance.
    let other_cpu = matches!(headers, Some(Err(_)));
    let mut damaged = Vec::new();
    if let Some(place) = multiboot2::find(file).filter(|_| !other_cpu && !bzimage) {
        match multiboot2::check(file) {
            // The program inside of a disk image or a UEFI file has a header, but the whole is not that program.
            Err(error @ Multiboot2Error::NoAddresses) => damaged.push(error.into()),
            result => {
                offers.push(Candidate::new(Protocol::Multiboot2, format!("header at {place:#x}"), result));
            }
        }
    }
    if let Some(place) = multiboot::find(file).filter(|_| !other_cpu && !bzimage) {
        match multiboot::check(file) {
            Err(error @ MultibootError::NoAddresses) => damaged.push(error.into()),
            result => {
                offers.push(Candidate::new(Protocol::Multiboot, format!("header at {place:#x}"), result));
            }
        }
    }
    let mut refusal = None;
    match headers {
        Some(Ok(headers)) => {
            let notes = notes::read(file, &headers);
            if pvh::note(&notes).is_some() {
                let entry = pvh::entry(&notes);
                let what =
                    entry.as_ref().map_or_else(|_| "note".to_owned(), |at| format!("note, entry {at:#x}"));
                offers.push(Candidate::new(Protocol::Pvh, what, entry));
            }
            if linux::is_vmlinux(&notes) {
                offers.push(Candidate {
                    protocol: Protocol::Linux,
                    what: format!("vmlinux, {}", headers.class),
                    problem: None,
                });
            }
            if offers.is_empty() && notes::is_for_linux(&notes) {
                // What keeps it from being loaded at all says more.
                let problem = elf::plan(file, &ElfOptions::default()).err();
                refusal = Some(problem.map_or(BootError::UserProgram, BootError::from));
            }
            offers.push(Candidate {
                protocol: Protocol::Elf,
                what: headers.class.to_string(),
                problem: None,
            });
        }
        Some(Err(error)) => refusal = Some(LoadError::from(error).into()),
        None => {}
    }
    if boot_sector::check(file).is_ok() && offers.is_empty() {
        offers.push(Candidate {
            protocol: Protocol::BootSector,
            what: "55 aa at 510".to_owned(),
            problem: None,
        });
    }
    if !other_cpu {
        damaged.extend(multiboot2::find_damaged(file).map(BootError::from));
        damaged.extend(multiboot::find_damaged(file).map(BootError::from));
    }
    let foreign = match refusal {
        Some(error) => Some(error),
        None if offers.is_empty() => Some(BootError::NotAKernel(FileType::from_bytes(file))),
        None => None,
    };
    Detection { offers, damaged, foreign }
}

impl Detection {
    /// The protocol to start the file by, if the user names none.
    ///
    /// The first offer that can be taken. A plain ELF file is entered as such only where nothing in it asks for more:
    /// a kernel whose header cannot be satisfied would not find what it needs.
    ///
    /// # Errors
    /// What the file is, if it is no kernel; else why nothing in it can be taken.
    pub fn choose(self) -> Result<Protocol, BootError> {
        if let Some(error) = self.foreign {
            // A header that is wrong says more than that nothing is known of the file.
            let unknown = matches!(&error, BootError::NotAKernel(FileType { is_unknown: true, .. }));
            return Err(self.damaged.into_iter().next().filter(|_| unknown).unwrap_or(error));
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
            None => BootError::NothingFits(Vec::new()),
        })
    }

    /// What was found, in words: `multiboot (header at 0x1000)`.
    #[must_use]
    pub fn describe(&self) -> Vec<String> {
        let offers = self.offers.iter().map(|Candidate { protocol, what, problem }| match problem {
            Some(problem) => format!("{protocol} ({what}), which cannot be taken: {problem}"),
            None => format!("{protocol} ({what})"),
        });
        offers.chain(self.damaged.iter().map(|error| format!("not to be taken: {error}"))).collect()
    }
}
