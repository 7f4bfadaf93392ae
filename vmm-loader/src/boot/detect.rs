//! Detection of the boot protocols that a file supports, and the choice of one.
//!
//! Reads headers only, so the time does not depend on the size of the file. [`plan`](super::plan) checks the image.

use super::error::BootError;
use super::file_type::{FileCategory, FileType};
use super::multiboot::MultibootError;
use super::multiboot2::Multiboot2Error;
use super::{boot_sector, linux, multiboot, multiboot2, pvh};
use crate::elf::error::ElfError;
use crate::elf::header::{ElfHeaders, is_elf};
use crate::elf::notes;
use crate::elf::{self, ElfOptions};
use crate::protocol::Protocol;

/// Protocol that a file has a header for.
#[derive(Debug)]
#[non_exhaustive]
pub struct Candidate {
    /// Boot protocol that the header belongs to.
    pub protocol: Protocol,
    /// Evidence for the protocol, such as `header at 0x1000`.
    pub evidence: String,
    /// Problem that prevents a start by this protocol, if there is one.
    pub problem: Option<BootError>,
}

impl Candidate {
    fn new<T, E: Into<BootError>>(protocol: Protocol, evidence: String, checked: Result<T, E>) -> Self {
        Self { protocol, evidence, problem: checked.err().map(Into::into) }
    }

    fn without_problem(protocol: Protocol, evidence: String) -> Self {
        Self { protocol, evidence, problem: None }
    }
}

/// Result of [`detect`]: the boot protocols that a file has headers for.
#[derive(Debug)]
#[non_exhaustive]
pub struct Detection {
    /// Boot protocols that the file has a header for, in the order of choice.
    pub candidates: Vec<Candidate>,
    /// Headers of the file that are damaged: data that resembles a header of a boot protocol and is not valid.
    pub damaged_headers: Vec<BootError>,
    /// Reason why the file is not a kernel, if it is not.
    not_a_kernel: Option<BootError>,
}

/// Finds the boot protocols that a file has a header for.
#[must_use]
pub fn detect(file: &[u8]) -> Detection {
    let mut candidates = Vec::new();
    let headers = is_elf(file).then(|| ElfHeaders::read(file));
    let bzimage = linux::is_bzimage(file);
    if bzimage {
        candidates.push(Candidate::new(Protocol::Linux, linux::describe(file), linux::check(file)));
    }
    // In a file for another CPU, data that resembles an x86 header is a coincidence.
    let other_cpu = matches!(headers, Some(Err(_)));
    let mut damaged_headers = Vec::new();
    if let Some(offset) = multiboot2::find(file).filter(|_| !other_cpu && !bzimage) {
        match multiboot2::check(file) {
            // The header belongs to a program inside a disk image or a UEFI file, and not to the file as a whole.
            Err(error @ Multiboot2Error::NoAddresses) => damaged_headers.push(error.into()),
            checked => {
                let evidence = format!("header at {offset:#x}");
                candidates.push(Candidate::new(Protocol::Multiboot2, evidence, checked));
            }
        }
    }
    if let Some(offset) = multiboot::find(file).filter(|_| !other_cpu && !bzimage) {
        match multiboot::check(file) {
            Err(error @ MultibootError::NoAddresses) => damaged_headers.push(error.into()),
            checked => {
                let evidence = format!("header at {offset:#x}");
                candidates.push(Candidate::new(Protocol::Multiboot, evidence, checked));
            }
        }
    }
    let mut elf_problem = None;
    match headers {
        Some(Ok(headers)) => {
            let notes = notes::read(file, &headers);
            if pvh::entry_note(&notes).is_some() {
                let entry = pvh::entry(&notes);
                let evidence = entry
                    .as_ref()
                    .map_or_else(|_| "note".to_owned(), |entry| format!("note, entry {entry:#x}"));
                candidates.push(Candidate::new(Protocol::Pvh, evidence, entry));
            }
            if linux::is_vmlinux(&notes) {
                let evidence = format!("vmlinux, {}", headers.class);
                candidates.push(Candidate::without_problem(Protocol::Linux, evidence));
            }
            if candidates.is_empty() && notes::is_linux_program(&notes) {
                // If the program cannot be loaded either, that reason is the more specific one.
                let problem = elf::plan(file, &ElfOptions::default()).err();
                elf_problem = Some(problem.map_or(BootError::UserProgram, BootError::from));
            }
            candidates.push(Candidate::without_problem(Protocol::Elf, headers.class.to_string()));
        }
        Some(Err(error)) => elf_problem = Some(ElfError::from(error).into()),
        None => {}
    }
    if boot_sector::check(file).is_ok() && candidates.is_empty() {
        candidates.push(Candidate::without_problem(Protocol::BootSector, "55 aa at 510".to_owned()));
    }
    if !other_cpu {
        damaged_headers.extend(multiboot2::find_damaged(file).map(BootError::from));
        damaged_headers.extend(multiboot::find_damaged(file).map(BootError::from));
    }
    // Elsewhere, such as in a disk image, the header belongs to a program inside the file.
    if damaged_headers.is_empty()
        && let [Candidate { protocol: Protocol::Elf, .. }] = *candidates
    {
        damaged_headers.extend(multiboot2::find_misplaced(file).map(BootError::from));
        damaged_headers.extend(multiboot::find_misplaced(file).map(BootError::from));
    }
    let not_a_kernel = match elf_problem {
        Some(error) => Some(error),
        None if candidates.is_empty() => Some(BootError::NotAKernel(FileType::from_bytes(file))),
        None => None,
    };
    Detection { candidates, damaged_headers, not_a_kernel }
}

impl Detection {
    /// Chooses the protocol to start the file by: the first candidate without a problem.
    ///
    /// A plain ELF file is chosen only if the file has no header of a boot protocol, not even a damaged or misplaced one. A kernel
    /// with a header that cannot be satisfied would miss its boot information.
    ///
    /// # Errors
    ///
    /// [`BootError::NotAKernel`] or another reason why the file is not a kernel, the problem of the only candidate, or
    /// [`BootError::NoUsableCandidate`] with the problems of all candidates.
    pub fn choose(self) -> Result<Protocol, BootError> {
        if let Some(error) = self.not_a_kernel {
            // A damaged header says more than an unknown file type.
            let is_unknown =
                matches!(&error, BootError::NotAKernel(FileType { category: FileCategory::Unknown, .. }));
            return Err(self.damaged_headers.into_iter().next().filter(|_| is_unknown).unwrap_or(error));
        }
        let has_header = match *self.candidates {
            [Candidate { protocol: Protocol::Elf, .. }] => !self.damaged_headers.is_empty(),
            _ => self.candidates.iter().any(|candidate| !candidate.protocol.is_plain()),
        };
        let mut problems = Vec::new();
        for candidate in self.candidates {
            match candidate.problem {
                Some(problem) => problems.push(problem),
                None if candidate.protocol.is_plain() && has_header => {}
                None => return Ok(candidate.protocol),
            }
        }
        problems.extend(self.damaged_headers);
        Err(match problems.pop() {
            Some(only) if problems.is_empty() => only,
            Some(last) => {
                problems.push(last);
                BootError::NoUsableCandidate(problems)
            }
            None => BootError::NoUsableCandidate(Vec::new()),
        })
    }

    /// Describes each candidate and each damaged header in one line, such as `multiboot (header at 0x1000)`.
    #[must_use]
    pub fn describe(&self) -> Vec<String> {
        let candidates =
            self.candidates.iter().map(|Candidate { protocol, evidence, problem }| match problem {
                Some(problem) => format!("{protocol} ({evidence}), which cannot be taken: {problem}"),
                None => format!("{protocol} ({evidence})"),
            });
        candidates
            .chain(self.damaged_headers.iter().map(|error| format!("not to be taken: {error}")))
            .collect()
    }
}
