//! The disk: requests, and the files behind it.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::super::block::VirtioBlock;
use super::super::disk::check;
use super::super::disk_error::DiskError;
use super::driver::{Driver, WRITE};
use crate::devices::device::Device;
use crate::spec::{BlockAccess, BlockSpec, HostFile};

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;

const HEADER: u64 = 0x4_0000;
const STATUS: u64 = 0x4_0800;
const DATA: u64 = 0x5_0000;

/// A directory with an image of so many bytes, each the number of its sector.
fn image(size: usize) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk.img");
    let bytes: Vec<u8> = (0..size).map(|at| (at / 512).to_le_bytes()[0]).collect();
    fs::write(&path, bytes).unwrap();
    (directory, path)
}

fn disk(path: &Path, access: BlockAccess) -> Driver {
    Driver::started(VirtioBlock::new(&BlockSpec { image: HostFile::new(path), access }).unwrap())
}

fn header(driver: &Driver, kind: u32, sector: u64) {
    driver.put(HEADER, &[&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat());
    driver.put(STATUS, &[0xff]);
}

/// A request with its data in one buffer; returns the status and the number of bytes said to be written.
fn request(driver: &mut Driver, kind: u32, sector: u64, length: u32) -> (u8, u32) {
    header(driver, kind, sector);
    let direction = if kind == OUT { 0 } else { WRITE };
    driver.send(0, &[(HEADER, 16, 0), (DATA, length, direction), (STATUS, 1, WRITE)]);
    (driver.bytes(STATUS, 1)[0], driver.used(0).last().unwrap().1)
}

#[test]
fn the_driver_is_told_size_and_limits() {
    let (_directory, path) = image(10 * 512);
    let mut driver = disk(&path, BlockAccess::ReadOnly);
    assert_eq!(driver.get(0x008), 2);
    let mut capacity = [0; 8];
    driver.read(0x100, &mut capacity);
    assert_eq!(u64::from_le_bytes(capacity), 10);
    assert_eq!([0x108, 0x10c, 0x114].map(|field| driver.get(field)), [128 << 10, 126, 512]);
    let mut piece = [0xff; 2];
    driver.read(0x109, &mut piece);
    assert_eq!(piece, [0, 2]);
    driver.set(0x014, 0);
    assert_eq!(driver.get(0x010) >> 5 & 1, 1, "read-only");
    let mut driver = disk(&path, BlockAccess::Temporary);
    driver.set(0x014, 0);
    assert_eq!(driver.get(0x010) >> 5 & 1, 0);
}

#[test]
fn sectors_are_read_wherever_the_buffers_are_cut() {
    let (_directory, path) = image(300 * 512);
    let mut driver = disk(&path, BlockAccess::ReadOnly);
    assert_eq!(request(&mut driver, IN, 7, 1024), (0, 1025));
    assert_eq!(driver.bytes(DATA, 1025), [vec![7; 512], vec![8; 512], vec![0]].concat());
    // A header in two parts, data in three, and the status in the same buffer as the last of it.
    header(&driver, IN, 9);
    let cuts = [
        (HEADER, 5, 0),
        (HEADER + 5, 11, 0),
        (DATA, 1, WRITE),
        (DATA + 1, 0, WRITE),
        (DATA + 1, 500, WRITE),
        (DATA + 501, 12, WRITE),
    ];
    driver.send(0, &cuts);
    assert_eq!(driver.bytes(DATA, 513), [vec![9; 512], vec![0]].concat());
    assert_eq!(driver.used(0)[1].1, 513);
    // More than goes through the device's hands at once.
    assert_eq!(request(&mut driver, IN, 0, 150 * 1024), (0, 150 * 1024 + 1));
    assert_eq!(driver.bytes(DATA + 299 * 512, 512), vec![299_u32.to_le_bytes()[0]; 512]);
}

#[test]
fn a_read_only_disk_refuses_writes_and_the_image_stays() {
    let (_directory, path) = image(4096);
    let before = fs::read(&path).unwrap();
    let mut driver = disk(&path, BlockAccess::ReadOnly);
    assert_eq!(request(&mut driver, OUT, 0, 512), (1, 1));
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn requests_beyond_the_disk_or_not_of_whole_sectors_fail() {
    let (_directory, path) = image(8 * 512);
    let mut driver = disk(&path, BlockAccess::Temporary);
    for (sector, length) in
        [(8, 512), (7, 1024), (0, 511), (0, 1), (u64::MAX, 512), (u64::MAX / 512, 512), (0, 4608)]
    {
        for kind in [IN, OUT] {
            assert_eq!(request(&mut driver, kind, sector, length).0, 1, "{kind} {sector} {length}");
        }
    }
    assert_eq!(request(&mut driver, IN, 8, 0).0, 0, "nothing, at the very end");
    assert_eq!(request(&mut driver, IN, 0, 4096).0, 0);
}

#[test]
fn other_requests() {
    let (_directory, path) = image(512);
    let mut driver = disk(&path, BlockAccess::ReadOnly);
    assert_eq!(request(&mut driver, FLUSH, 0, 0), (0, 1));
    assert_eq!(request(&mut driver, GET_ID, 0, 20), (0, 21));
    assert_eq!(driver.bytes(DATA, 20), *b"disk.img\0\0\0\0\0\0\0\0\0\0\0\0");
    assert_eq!(request(&mut driver, GET_ID, 0, 4), (0, 5));
    assert_eq!(request(&mut driver, 11, 0, 512), (2, 0), "discard: not offered");
    assert_eq!(request(&mut driver, u32::MAX, 0, 0), (2, 1));
}

#[test]
fn a_request_needs_a_header_and_a_status() {
    let (_directory, path) = image(512);
    let mut driver = disk(&path, BlockAccess::ReadOnly);
    driver.send(0, &[(HEADER, 15, 0), (STATUS, 1, WRITE)]);
    driver.assert_broken("the chain of descriptor 0 is no request: its header is too short");
    driver.start();
    driver.send(0, &[(HEADER, 16, 0)]);
    driver.assert_broken("the chain of descriptor 0 is no request: it has no byte for the status");
}

/// Writes bytes that cross a block of the overlay, and reads them again with what is around.
fn write_and_read_back(driver: &mut Driver) {
    driver.put(DATA, &[0xaa; 1024]);
    assert_eq!(request(driver, OUT, 7, 1024), (0, 1));
    assert_eq!(request(driver, FLUSH, 0, 0).0, 0);
    driver.put(DATA, &[0; 4 * 512]);
    assert_eq!(request(driver, IN, 6, 4 * 512).0, 0);
    assert_eq!(driver.bytes(DATA, 4 * 512), [vec![6; 512], vec![0xaa; 1024], vec![9; 512]].concat());
}

#[test]
fn an_overlay_keeps_writes_and_leaves_the_image_alone() {
    let (directory, path) = image(11 * 512);
    let before = fs::read(&path).unwrap();
    write_and_read_back(&mut disk(&path, BlockAccess::Temporary));
    let left: Vec<_> = fs::read_dir(directory.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "an overlay without a name leaves nothing");

    let overlay = directory.path().join("changes");
    let mut driver = disk(&path, BlockAccess::Overlay(overlay.clone()));
    write_and_read_back(&mut driver);
    drop(driver);
    assert_eq!(fs::read(&path).unwrap(), before);
    let changes = fs::read(&overlay).unwrap();
    let mut expected = before;
    expected[7 * 512..9 * 512].fill(0xaa);
    assert_eq!(changes, expected, "both blocks were touched, and the second ends with the disk");
    let spec = BlockSpec { image: path.into(), access: BlockAccess::Overlay(overlay.clone()) };
    let again = VirtioBlock::new(&spec).unwrap_err();
    assert_eq!(again.to_string(), format!("the overlay {} exists already", overlay.display()));
    assert!(matches!(check(&spec), Err(DiskError::OverlayExists { .. })));
}

#[test]
fn a_checkpoint_holds_an_overlay_that_vanishes() {
    let (_directory, path) = image(11 * 512);
    let mut driver = disk(&path, BlockAccess::Temporary);
    write_and_read_back(&mut driver);
    let state = driver.device.save().unwrap();
    let mut other = disk(&path, BlockAccess::Temporary);
    driver.put(DATA, &[0x11; 512]);
    request(&mut other, OUT, 0, 512);
    other.device.restore(&state).unwrap();
    assert_eq!(other.device.save().unwrap(), state);
    other.start();
    assert_eq!(request(&mut other, IN, 0, 11 * 512).0, 0);
    let mut expected = fs::read(&path).unwrap();
    expected[7 * 512..9 * 512].fill(0xaa);
    assert_eq!(other.bytes(DATA, 11 * 512), expected);
}

#[test]
fn an_overlay_holds_only_what_was_written() {
    let directory = tempfile::tempdir().unwrap();
    let (path, overlay) = (directory.path().join("large"), directory.path().join("changes"));
    let large = fs::File::create(&path).unwrap();
    large.set_len(1 << 40).unwrap();
    large.write_all_at(b"before", (1 << 40) - 512).unwrap();
    let mut driver = disk(&path, BlockAccess::Overlay(overlay.clone()));
    driver.put(DATA, &[0x55; 512]);
    assert_eq!(request(&mut driver, OUT, (1 << 31) - 2, 512).0, 0);
    assert_eq!(request(&mut driver, IN, (1 << 31) - 2, 1024).0, 0);
    assert_eq!(driver.bytes(DATA, 518), [&[0x55; 512][..], b"before"].concat());
    let kept = fs::metadata(&overlay).unwrap();
    assert_eq!(kept.len(), 1 << 40);
    assert!(kept.blocks() * 512 <= 64 << 10, "{} blocks", kept.blocks());
}

#[test]
fn a_disk_in_place_writes_the_image() {
    let (_directory, path) = image(11 * 512);
    write_and_read_back(&mut disk(&path, BlockAccess::InPlace));
    assert_eq!(fs::read(&path).unwrap()[7 * 512..9 * 512], [0xaa; 1024]);
}

#[test]
fn an_image_that_is_written_is_nobody_elses() {
    let (_directory, path) = image(512);
    let spec = |access| BlockSpec { image: path.clone().into(), access };
    let first = VirtioBlock::new(&spec(BlockAccess::Temporary)).unwrap();
    let second = VirtioBlock::new(&spec(BlockAccess::ReadOnly)).unwrap();
    assert!(matches!(check(&spec(BlockAccess::InPlace)), Err(DiskError::InUse { .. })));
    drop((first, second));
    let writer = VirtioBlock::new(&spec(BlockAccess::InPlace)).unwrap();
    let error = check(&spec(BlockAccess::ReadOnly)).unwrap_err();
    assert_eq!(error.to_string(), format!("the disk image {} is in use by another machine", path.display()));
    drop(writer);
    check(&spec(BlockAccess::InPlace)).unwrap();
}

#[test]
fn files_that_are_no_images_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let refusal = |path: &Path| {
        let error =
            check(&BlockSpec { image: HostFile::new(path), access: BlockAccess::ReadOnly }).unwrap_err();
        (error.to_string().replace(directory.path().to_str().unwrap(), "DIR"), error.is_configuration())
    };
    let file = |name: &str, size: usize| {
        let path = directory.path().join(name);
        fs::write(&path, vec![0; size]).unwrap();
        path
    };
    let no = |text: &str| (text.to_owned(), true);
    assert_eq!(refusal(&directory.path().join("none")), no("cannot open the disk image DIR/none"));
    assert_eq!(refusal(directory.path()), no("the disk image DIR is not a regular file"));
    let size = |name, size| {
        no(&format!("the disk image DIR/{name} has {size} bytes, which is not a number of 512-byte sectors"))
    };
    assert_eq!(refusal(&file("empty", 0)), size("empty", 0));
    assert_eq!(refusal(&file("odd", 1000)), size("odd", 1000));
}

#[test]
fn a_saved_block_that_the_disk_does_not_have_is_refused() {
    let (_directory, path) = image(8 * 512);
    let mut driver = disk(&path, BlockAccess::Temporary);
    driver.put(DATA, &[0xaa; 512]);
    assert_eq!(request(&mut driver, OUT, 1, 512).0, 0);
    let state = driver.device.save().unwrap();
    let number = state.len() - 4096 - 8;
    for block in [1, 1 << 52, u64::MAX] {
        let mut damaged = state.clone();
        damaged[number..number + 8].copy_from_slice(&u64::to_le_bytes(block));
        assert!(driver.device.restore(&damaged).is_err(), "{block:#x}");
        assert_eq!(driver.device.save().unwrap(), state);
    }
}
