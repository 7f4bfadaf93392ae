//! The guest's input in a case: the file NAME.input beside NAME.toml, or nothing.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::Path;

use vmm_core::console::{Console, Input, NoInput, Output};

/// A file, until it ends.
struct FileInput {
    file: File,
    ended: bool,
}

/// A console for the case of this configuration that prints to `output`.
///
/// # Errors
/// There is an input that cannot be read.
pub(super) fn console(config: &Path, output: Output) -> io::Result<Console> {
    let file = match File::open(config.with_extension("input")) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Ok(Console { output, input: Box::new(NoInput), arrival: None });
        }
        Err(error) => return Err(error),
    };
    // A file is always readable: who waits for input to arrive finds it at once.
    let arrival = Some(file.try_clone()?.into());
    Ok(Console { output, input: Box::new(FileInput { file, ended: false }), arrival })
}

impl Input for FileInput {
    fn poll(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.ended |= count == 0 && !buffer.is_empty();
        Ok(count)
    }

    fn is_over(&self) -> bool {
        self.ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_beside_the_configuration_is_the_input() {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("echo.toml");
        let open = || console(&config, Output::new(io::sink())).unwrap();
        assert!(open().input.is_over());
        std::fs::write(directory.path().join("echo.input"), "abc").unwrap();
        let mut input = open().input;
        let mut buffer = [0; 8];
        assert_eq!(
            (input.is_over(), input.poll(&mut buffer).unwrap(), &buffer[..3]),
            (false, 3, &b"abc"[..])
        );
        assert_eq!((input.poll(&mut buffer).unwrap(), input.is_over()), (0, true));
    }
}
