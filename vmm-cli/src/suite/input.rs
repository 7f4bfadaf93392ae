//! Input of the guest in a case: `input` of `[[test.case]]`, or the file NAME.input beside NAME.toml, or none.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use vmm_core::devices::console::{Console, Input, NoInput, Output};
use vmm_core::spec::host_file::HostFileError;
use vmm_core::spec::{HostFile, Interrupts, MachineSpec};

use crate::config::Config;

/// File of the guest's input, which each run reads from its beginning.
#[derive(Debug, Clone)]
pub(crate) struct InputFile(Arc<File>);

/// Input from a file.
struct FileInput {
    file: InputFile,
    /// Number of bytes read so far.
    offset: u64,
    ended: bool,
}

impl InputFile {
    /// Opens the input `beside` a configuration. Returns `None` if there is none.
    ///
    /// # Errors
    /// The file exists and cannot be read, or is outside of the directory that it must be in.
    pub(crate) fn open(beside: &HostFile) -> Result<Option<Self>, HostFileError> {
        match beside.open(false) {
            Ok(file) => Ok(Some(Self(Arc::new(file)))),
            Err(HostFileError::Io(error)) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Creates a console with this input, or with none.
    ///
    /// # Errors
    /// The descriptor cannot be copied.
    pub(crate) fn console(file: Option<&Self>, output: Output) -> io::Result<Console> {
        let Some(file) = file else {
            return Ok(Console { output, input: Box::new(NoInput), input_fd: None });
        };
        // A file is always readable, so a wait for input returns at once.
        let input_fd = Some(file.0.try_clone()?.into());
        let input = Box::new(FileInput { file: file.clone(), offset: 0, ended: false });
        Ok(Console { output, input, input_fd })
    }
}

/// Input from a text.
struct TextInput(io::Cursor<Vec<u8>>);

impl Input for TextInput {
    fn poll(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }

    fn has_ended(&self) -> bool {
        usize::try_from(self.0.position()).map_or(true, |position| position >= self.0.get_ref().len())
    }
}

/// Creates a console for a case. Input is `typed`, or the file `beside` the configuration, if it exists. Output goes to
/// `output`.
///
/// # Errors
/// The input file exists and cannot be read, or is outside of the directory that it must be in.
pub(crate) fn console(
    beside: &HostFile,
    typed: Option<&str>,
    output: Output,
) -> Result<Console, HostFileError> {
    if let Some(text) = typed {
        let input = Box::new(TextInput(io::Cursor::new(text.as_bytes().to_vec())));
        return Ok(Console { output, input, input_fd: always_readable()? });
    }
    Ok(InputFile::console(InputFile::open(beside)?.as_ref(), output)?)
}

/// Returns true if a machine can be reset for another run of this configuration. Input that was read does not come
/// again, and with interrupts a new machine is faster.
pub(crate) fn allows_reset(config: &Config, machine: &MachineSpec) -> bool {
    machine.interrupts == Interrupts::None && !config.input_file().as_path().exists()
}

/// Returns a descriptor that is always readable.
fn always_readable() -> io::Result<Option<OwnedFd>> {
    Ok(Some(File::open("/dev/null")?.into()))
}

impl Input for FileInput {
    fn poll(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.0.read_at(buffer, self.offset)?;
        self.offset = self.offset.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
        self.ended |= count == 0 && !buffer.is_empty();
        Ok(count)
    }

    fn has_ended(&self) -> bool {
        self.ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_beside_the_configuration_is_the_input() {
        let directory = tempfile::tempdir().unwrap();
        let beside = HostFile::new(directory.path().join("echo.input"));
        let open = || console(&beside, None, Output::new(io::sink())).unwrap();
        assert!(open().input.has_ended());
        std::fs::write(directory.path().join("echo.input"), "abc").unwrap();
        let mut input = open().input;
        let mut buffer = [0; 8];
        assert_eq!(
            (input.has_ended(), input.poll(&mut buffer).unwrap(), &buffer[..3]),
            (false, 3, &b"abc"[..])
        );
        assert_eq!((input.poll(&mut buffer).unwrap(), input.has_ended()), (0, true));
    }
}
