//! The nested host: an ordinary Linux KVM, on an AMD CPU that QEMU emulates in software.
//!
//! It is the host for machines that have no KVM, and for modes that the machine's own KVM cannot do. A stock kernel
//! boots in 2 to 3 seconds, runs one command and powers off. It is for truth, not for timing.

mod boot;
mod image;
mod kernel;
mod newc;
mod packages;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::failure::{Failure, Result, While};
use crate::workspace::plain_path;
pub(crate) use kernel::fetch as fetch_kernel;
pub(crate) use newc::Archive;
pub(crate) use packages::Missing;

use boot::Boot;
use image::Image;
use kernel::Kernel;

/// A command to run on the nested host.
pub(crate) struct Job {
    /// The program and its arguments. A name without a slash is one of vmm-cli, busybox and what is in our `PATH`.
    pub(crate) command: Vec<String>,
    /// The working directory.
    pub(crate) directory: PathBuf,
    /// Programs to take along with their libraries; each is also found by its name.
    pub(crate) programs: Vec<PathBuf>,
    /// Files and directories to take along. Those that do not exist are left out.
    pub(crate) files: Vec<PathBuf>,
    /// The command's standard input; empty if there is none.
    pub(crate) input: Vec<u8>,
    /// The limit for the whole run.
    pub(crate) time_limit: Duration,
    /// Show the kernel's messages.
    pub(crate) verbose: bool,
}

/// All that the nested host is made of.
pub(crate) struct NestedHost {
    qemu: PathBuf,
    busybox: PathBuf,
    kernel: Kernel,
    modules: Vec<(String, Vec<u8>)>,
}

impl NestedHost {
    /// Looks for all parts.
    ///
    /// # Errors
    ///
    /// The inner one names everything that is missing; the outer one says what could not be read.
    pub(crate) fn find() -> Result<std::result::Result<Self, Missing>> {
        let mut missing = Missing::default();
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

    /// The kernel it runs.
    pub(crate) fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    /// Modules of its kernel, unpacked, each after those it depends on.
    pub(crate) fn modules(&self, names: &[&str]) -> Result<Vec<(String, Vec<u8>)>> {
        let mut missing = Missing::default();
        let modules = self.kernel.modules(names, &mut missing)?;
        match missing.is_empty() {
            true => Ok(modules),
            false => Err(Failure::new(missing.to_string()).with_status(106)),
        }
    }

    /// Its busybox.
    pub(crate) fn busybox(&self) -> &Path {
        &self.busybox
    }

    /// Runs `job`, hands its output (standard output and standard error) to `sink`, and returns its exit status.
    pub(crate) fn run(&self, job: &Job, sink: impl FnMut(&[u8]) + Send) -> Result<u8> {
        let image = self.image(job)?.finish()?;
        let (time_limit, verbose) = (job.time_limit, job.verbose);
        Boot { qemu: &self.qemu, kernel: &self.kernel.image, image, time_limit, verbose }.run(sink)
    }

    fn image(&self, job: &Job) -> Result<Image> {
        let mut image = Image::new()?;
        for directory in ["/bin", "/dev", "/proc", "/root", "/sys", "/tmp"] {
            image.directory(Path::new(directory))?;
        }
        image.directory(&job.directory)?;
        image.bytes(Path::new("/init"), 0o755, include_bytes!("init.sh"))?;
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

    /// The command as the nested host will know it; its program is taken along if need be.
    fn command(&self, job: &Job, image: &mut Image) -> Result<Vec<String>> {
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
