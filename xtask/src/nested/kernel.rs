//! The nested host's kernel and its KVM modules: an installed kernel, or Debian's package unpacked into a cache.
//!
//! A kernel is never installed. Unpacking the package needs no root.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use walkdir::WalkDir;

use super::packages::{GZIP, MissingParts, PackagedProgram, XZ, ZSTD};
use crate::failure::{Failure, FileContext, Result};
use crate::process::output;
use crate::progress::say;

/// Debian's metapackage of the smallest kernel with KVM. It depends on the package of the current version.
const META_PACKAGE: &str = "linux-image-cloud-amd64";

/// KVM module for AMD CPUs. QEMU emulates SVM, but not VT-x.
const KVM_MODULE: &str = "kvm_amd";

/// A kernel and its modules.
#[derive(Debug)]
pub(crate) struct Kernel {
    /// The bzImage.
    pub(super) image: PathBuf,
    modules: PathBuf,
    /// Path of each module, by its name with `_` for `-`: the kernel does not distinguish them.
    files: BTreeMap<String, PathBuf>,
}

impl Kernel {
    /// Finds the newest kernel in the cache, else the newest installed kernel, that is readable and has `kvm_amd`.
    pub(super) fn find() -> Option<Self> {
        let cached = cache().ok().into_iter().flat_map(|cache| newest_first(&cache));
        cached.chain([PathBuf::from("/")]).find_map(|root| Self::below(&root))
    }

    /// Finds the newest kernel in the file system tree at `root`.
    fn below(root: &Path) -> Option<Self> {
        for modules in
            ["lib/modules", "usr/lib/modules"].iter().flat_map(|place| newest_first(&root.join(place)))
        {
            let version = modules.file_name()?.to_string_lossy().into_owned();
            // Debian keeps the image in /boot, Fedora and Arch beside the modules.
            let images = [root.join("boot").join(format!("vmlinuz-{version}")), modules.join("vmlinuz")];
            let Some(image) = images.into_iter().find(|image| fs::File::open(image).is_ok()) else {
                continue;
            };
            let files = list_modules(&modules);
            if files.contains_key(KVM_MODULE) {
                return Some(Self { image, modules, files });
            }
        }
        None
    }

    /// Returns the path of the bzImage.
    pub(crate) fn image(&self) -> &Path {
        &self.image
    }

    /// Returns `kvm_amd` and its dependencies, as [`Kernel::modules`] does.
    pub(super) fn kvm_modules(&self, missing: &mut MissingParts) -> Result<Vec<(String, Vec<u8>)>> {
        self.modules(&[KVM_MODULE], missing)
    }

    /// Returns modules, decompressed, each after its dependencies. Built-in modules are left out.
    pub(super) fn modules(
        &self,
        names: &[&str],
        missing: &mut MissingParts,
    ) -> Result<Vec<(String, Vec<u8>)>> {
        let list = self.modules.join("modules.builtin");
        let builtin = fs::read_to_string(&list).while_doing("read", &list)?;
        let mut done = builtin.lines().map(|line| module_name(Path::new(line))).collect();
        let mut modules = Vec::new();
        for name in names {
            self.add_module(name, &mut done, &mut modules, missing)?;
        }
        Ok(modules)
    }

    fn add_module(
        &self,
        name: &str,
        done: &mut BTreeSet<String>,
        modules: &mut Vec<(String, Vec<u8>)>,
        missing: &mut MissingParts,
    ) -> Result<()> {
        if !done.insert(name.to_owned()) {
            return Ok(());
        }
        let file = self.files.get(name);
        let file = file.ok_or_else(|| {
            Failure::new(format!("the kernel in {} has no module {name}", self.modules.display()))
        })?;
        let Some(bytes) = unpack(file, missing)? else { return Ok(()) };
        for dependency in dependencies(&bytes) {
            self.add_module(&dependency, done, modules, missing)?;
        }
        modules.push((name.to_owned(), bytes));
        Ok(())
    }
}

/// Downloads and unpacks Debian's kernel package into the cache, unless that version is there.
pub(crate) fn fetch() -> Result<()> {
    let depends = output(Command::new("apt-cache").env("LC_ALL", "C").args(["depends", META_PACKAGE]))?;
    let depends = String::from_utf8_lossy(&depends);
    let mut packages = depends.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    let package = packages.find(|package| package.starts_with("linux-image-"));
    let package = package.ok_or_else(|| {
        Failure::new(format!(
            "apt knows no {META_PACKAGE}, which is Debian's; try: apt-get update, or let all read an installed \
             kernel: chmod a+r /boot/vmlinuz-*"
        ))
    })?;
    let destination = cache()?.join(package);
    if destination.join("boot").is_dir() {
        say(format_args!("the kernel is there: {}", destination.display()));
        return Ok(());
    }
    say(format_args!("fetching {package}"));
    fs::create_dir_all(cache()?).while_doing("create", &destination)?;
    // Unpacked to a temporary directory and then renamed, so that an incomplete tree is never used as a kernel.
    let staging = tempfile::tempdir_in(cache()?).while_doing("create a directory beside", &destination)?;
    output(Command::new("apt-get").args(["--quiet", "download", package]).current_dir(&staging))?;
    let mut entries = staging.path().read_dir().while_doing("list", staging.path())?;
    let archive = entries.next().transpose().while_doing("list", staging.path())?;
    let archive =
        archive.ok_or_else(|| Failure::new(format!("apt-get downloaded nothing for {package}")))?.path();
    let tree = staging.path().join("tree");
    output(Command::new("dpkg-deb").arg("-x").args([&archive, &tree]))?;
    fs::rename(&tree, &destination).while_doing("create", &destination)?;
    say(format_args!("unpacked {}", destination.display()));
    Ok(())
}

/// Returns the cache directory, which has a directory for each unpacked kernel.
fn cache() -> Result<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    let cache =
        cache.ok_or_else(|| Failure::new("neither HOME nor XDG_CACHE_HOME says where to keep a kernel"))?;
    Ok(cache.join("vmm").join("kernels"))
}

/// Returns the directories in `parent`, sorted by the numbers in their names, highest first; empty without `parent`.
fn newest_first(parent: &Path) -> Vec<PathBuf> {
    let entries = parent.read_dir().into_iter().flatten().flatten().map(|entry| entry.path());
    let mut directories: Vec<_> = entries.filter(|path| path.is_dir()).collect();
    directories
        .sort_by_cached_key(|path| version_numbers(&path.file_name().unwrap_or_default().to_string_lossy()));
    directories.reverse();
    directories
}

fn version_numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}

/// Returns the module files in a directory tree, by module name.
fn list_modules(directory: &Path) -> BTreeMap<String, PathBuf> {
    let entries = WalkDir::new(directory).into_iter().flatten();
    let files = entries.filter(|entry| entry.file_name().to_string_lossy().contains(".ko"));
    files.map(|entry| (module_name(entry.path()), entry.into_path())).collect()
}

/// Returns the name of a module, such as `kvm_amd` for `kernel/arch/x86/kvm/kvm-amd.ko.xz`.
fn module_name(file: &Path) -> String {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    name.split('.').next().unwrap_or_default().replace('-', "_")
}

/// Returns the dependencies of a module, from `depends` in its section `.modinfo` of NUL-terminated `key=value` strings.
fn dependencies(module: &[u8]) -> Vec<String> {
    let mut texts = module.split(|&byte| byte == 0);
    let depends = texts.find_map(|text| text.strip_prefix(b"depends=")).unwrap_or_default();
    let depends = String::from_utf8_lossy(depends);
    depends.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect()
}

/// Reads and decompresses a module. Returns `None` if the decompressor is missing.
fn unpack(file: &Path, missing: &mut MissingParts) -> Result<Option<Vec<u8>>> {
    let program: &PackagedProgram = match file.extension().and_then(|extension| extension.to_str()) {
        Some("ko") => return fs::read(file).while_doing("read", file).map(Some),
        Some("xz") => &XZ,
        Some("zst") => &ZSTD,
        Some("gz") => &GZIP,
        Some(_) | None => {
            return Err(Failure::new(format!("{} is packed in an unknown way", file.display())));
        }
    };
    let Some(program) = missing.look_for(program) else { return Ok(None) };
    output(Command::new(program).arg("-dc").arg(file)).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_versions() {
        assert_eq!(module_name(Path::new("kernel/arch/x86/kvm/kvm-amd.ko.xz")), "kvm_amd");
        assert!(version_numbers("6.1.0-56-cloud-amd64") > version_numbers("6.1.0-9-cloud-amd64"));
        assert!(version_numbers("linux-image-6.12.1") > version_numbers("linux-image-6.1.99"));
    }

    #[test]
    fn dependencies_come_from_modinfo() {
        let module = b"\x7fELF\0license=GPL\0depends=kvm,snd-pcm\0name=x\0";
        assert_eq!(dependencies(module), ["kvm", "snd_pcm"]);
        assert_eq!(dependencies(b"\0depends=\0depends=later\0"), Vec::<String>::new());
    }
}
