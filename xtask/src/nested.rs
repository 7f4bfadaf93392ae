//! The nested host: Debian's Linux with KVM for AMD, on a CPU that QEMU emulates in software.
//!
//! It is for machines without KVM, and for CPU modes that this machine's KVM does not support. The kernel boots in 2 to 3
//! seconds, runs one command and powers off. Times measured on it mean nothing.

mod boot;
mod image;
mod kernel;
mod newc;
mod packages;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::failure::{Failure, FileContext, Result};
use crate::workspace::plain_path;
pub(crate) use kernel::fetch as fetch_kernel;
pub(crate) use newc::CpioArchive;
pub(crate) use packages::MissingParts;

use boot::QemuRun;
use image::InitramfsImage;
use kernel::Kernel;

/// A command to run on the nested host.
pub(crate) struct NestedJob {
    /// Program and arguments. A program name without a slash is looked up in `programs`, busybox and `PATH`.
    pub(crate) command: Vec<String>,
    /// Working directory.
    pub(crate) directory: PathBuf,
    /// Programs to copy with their shared libraries. Each is also linked into `/bin`.
    pub(crate) programs: Vec<PathBuf>,
    /// Files and directories to copy. Missing ones are skipped.
    pub(crate) files: Vec<PathBuf>,
    /// Standard input of the command.
    pub(crate) input: Vec<u8>,
    /// Limit for the boot and the command.
    pub(crate) time_limit: Duration,
    /// Print the kernel's messages.
    pub(crate) verbose: bool,
}

/// Programs, kernel and modules of the nested host.
pub(crate) struct NestedHost {
    qemu: PathBuf,
    busybox: PathBuf,
    kernel: Kernel,
    modules: Vec<(String, Vec<u8>)>,
}

impl NestedHost {
    /// Finds all parts.
    ///
    /// # Errors
    ///
    /// The inner error names everything that is missing. The outer error is a file that could not be read.
    pub(crate) fn find() -> Result<std::result::Result<Self, MissingParts>> {
        let mut missing = MissingParts::default();
        let qemu = missing.look_for(&packages::QEMU);
        let busybox = missing.look_for(&packages::BUSYBOX);
        missing.look_for(&packages::LDD);
        let kernel = Kernel::find();
        let modules = match &kernel {
            Some(kernel) => kernel.kvm_modules(&mut missing)?,
            None => {
                missing.no_kernel();
                Vec::new()
            }
        };
        match (qemu, busybox, kernel) {
            (Some(qemu), Some(busybox), Some(kernel)) if missing.is_empty() => {
                Ok(Ok(Self { qemu, busybox, kernel, modules }))
            }
            _ => Ok(Err(missing)),
        }
    }

    /// Returns the kernel.
    pub(crate) fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    /// Returns modules of the kernel, decompressed, each after its dependencies.
    pub(crate) fn modules(&self, names: &[&str]) -> Result<Vec<(String, Vec<u8>)>> {
        let mut missing = MissingParts::default();
        let modules = self.kernel.modules(names, &mut missing)?;
        match missing.is_empty() {
            true => Ok(modules),
            false => Err(Failure::new(missing.to_string()).with_status(106)),
        }
    }

    /// Returns the path of busybox.
    pub(crate) fn busybox(&self) -> &Path {
        &self.busybox
    }

    /// Runs `job`, passes its standard output and standard error to `sink`, and returns its exit status.
    pub(crate) fn run(&self, job: &NestedJob, sink: impl FnMut(&[u8]) + Send) -> Result<u8> {
        let image = self.image(job)?.finish()?;
        let (time_limit, verbose) = (job.time_limit, job.verbose);
        QemuRun { qemu: &self.qemu, kernel: &self.kernel.image, image, time_limit, verbose }.run(sink)
    }

    fn image(&self, job: &NestedJob) -> Result<InitramfsImage> {
        let mut image = InitramfsImage::new()?;
        for directory in ["/bin", "/dev", "/proc", "/root", "/sys", "/tmp"] {
            image.directory(Path::new(directory))?;
        }
        image.directory(&job.directory)?;
        image.bytes(Path::new("/init"), 0o755, include_bytes!("nested/init.sh"))?;
        image.file_as(Path::new("/bin/busybox"), &self.busybox)?;
        image.libraries(&self.busybox)?;
        for (number, (name, bytes)) in self.modules.iter().enumerate() {
            image.bytes(&PathBuf::from(format!("/nested/modules/{number:02}-{name}.ko")), 0o644, bytes)?;
        }
        for program in &job.programs {
            image.program(program)?;
            image.link(&Path::new("/bin").join(program.file_name().unwrap_or_default()), program)?;
        }
        for file in job.files.iter().filter(|file| file.exists()) {
            image.tree(file)?;
        }
        let command = self.command(job, &mut image)?;
        image.bytes(
            Path::new("/nested/command"),
            0o644,
            image::script(&job.directory, &command).as_bytes(),
        )?;
        image.bytes(Path::new("/nested/input"), 0o644, &job.input)?;
        Ok(image)
    }

    /// Returns the command with the path of its program, which is added to the image if it is not there yet.
    fn command(&self, job: &NestedJob, image: &mut InitramfsImage) -> Result<Vec<String>> {
        let mut command = job.command.clone();
        let name = command.first_mut().ok_or_else(|| Failure::new("there is no command to run"))?;
        let known = job.programs.iter().any(|program| program.ends_with(&*name));
        if known || self.is_applet(name)? {
            return Ok(command);
        }
        let program = packages::find_program((*name).as_ref());
        let program =
            program.ok_or_else(|| Failure::new(format!("there is no program {name}")).with_status(127))?;
        let program = plain_path(&program)?;
        image.program(&program)?;
        *name = program.to_string_lossy().into_owned();
        Ok(command)
    }

    fn is_applet(&self, name: &str) -> Result<bool> {
        let list = Command::new(&self.busybox).arg("--list").output().while_doing("run", &self.busybox)?;
        Ok(list.stdout.split(|&byte| byte == b'\n').any(|applet| applet == name.as_bytes()))
    }
}
