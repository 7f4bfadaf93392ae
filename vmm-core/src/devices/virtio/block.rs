//! Disk (5.2): requests to read, write, flush, and for the serial number.
//!
//! A request is a header of 16 bytes, data, and a status byte, in buffers of any sizes: only their order and direction matter
//! (5.2.6). Data is copied through a buffer of fixed size, so a large request needs no more memory.

use std::io::{self, Read, Write};

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_SIZE_MAX,
    VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
};
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;
use virtio_queue::{Reader, Writer};

use super::device::VirtioDevice;
use super::disk::{Disk, SECTOR, serial};
use super::disk_error::DiskError;
use super::driver_error::{DriverError, DriverFault};
use super::queue::{DescriptorChain, DescriptorChains};
use crate::devices::device::StateMismatch;
use crate::spec::BlockSpec;

const QUEUE_SIZE: u16 = 128;
/// Maximum number of data buffers of a request: those of a chain without header and status.
const MAX_SEGMENTS: u32 = QUEUE_SIZE as u32 - 2;
/// Maximum length of a data buffer in bytes.
const MAX_SEGMENT_SIZE: u32 = 128 << 10;
/// Maximum length of a request's data: 15.75 MiB, the product of the two limits above.
const MAX_BYTES: u64 = MAX_SEGMENTS as u64 * MAX_SEGMENT_SIZE as u64;
/// Length of the copy buffer in bytes.
const BUFFER_SIZE: usize = 64 << 10;

/// Status of a request, its last byte (5.2.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Status {
    Ok = 0,
    IoError = 1,
    Unsupported = 2,
}

/// Block device.
#[derive(Debug)]
pub(super) struct VirtioBlock {
    disk: Disk,
    serial: [u8; 20],
    config: [u8; 60],
    buffer: Vec<u8>,
}

impl VirtioBlock {
    /// Opens the disk.
    pub(super) fn new(spec: &BlockSpec) -> Result<Self, DiskError> {
        let disk = Disk::open(spec)?;
        let config = config(disk.size());
        Ok(Self { disk, serial: serial(spec.image.as_path()), config, buffer: vec![0; BUFFER_SIZE] })
    }

    /// Executes a request and returns the number of bytes written to its buffers, from the first on.
    fn request(&mut self, chain: DescriptorChain<'_>, features: u64) -> Result<u32, DriverFault> {
        let DescriptorChain { head, mut reader, mut writer } = chain;
        let fault = |problem| DriverFault::Request { head, problem };
        let room = writer.available_bytes().checked_sub(1).ok_or(fault("it has no byte for the status"))?;
        let mut last = writer.split_at(room).map_err(|_| DriverFault::Buffer(head))?;
        let mut header = [0; 16];
        reader.read_exact(&mut header).map_err(|_| fault("its header is too short"))?;
        let [k0, k1, k2, k3, _, _, _, _, sector @ ..] = header;
        let sector = u64::from_le_bytes(sector);

        let status = match u32::from_le_bytes([k0, k1, k2, k3]) {
            VIRTIO_BLK_T_IN => self.read(sector, &mut writer),
            VIRTIO_BLK_T_OUT => self.write(sector, &mut reader, features),
            VIRTIO_BLK_T_FLUSH => self.disk.flush().map(|()| Status::Ok),
            VIRTIO_BLK_T_GET_ID => {
                writer.write_all(self.serial.get(..room.min(20)).unwrap_or_default()).map(|()| Status::Ok)
            }
            _ => Ok(Status::Unsupported),
        };
        // A failing disk is reported to the guest, as on hardware.
        let status = status.unwrap_or(Status::IoError);
        last.write_all(&[status as u8]).map_err(|_| DriverFault::Buffer(head))?;
        // The status follows the data. If the data is not complete, the status is not counted (2.7.8.2).
        let written = writer.bytes_written().saturating_add(usize::from(writer.available_bytes() == 0));
        Ok(u32::try_from(written).unwrap_or(u32::MAX))
    }

    fn read(&mut self, sector: u64, writer: &mut Writer<'_>) -> io::Result<Status> {
        let Some(mut at) = self.data_offset(sector, writer.available_bytes()) else {
            return Ok(Status::IoError);
        };
        while writer.available_bytes() > 0 {
            let length = writer.available_bytes().min(BUFFER_SIZE);
            let Some(buffer) = self.buffer.get_mut(..length) else { return Ok(Status::IoError) };
            self.disk.read(at, buffer)?;
            writer.write_all(buffer)?;
            at = at.saturating_add(u64::try_from(length).unwrap_or(u64::MAX));
        }
        Ok(Status::Ok)
    }

    fn write(&mut self, sector: u64, reader: &mut Reader<'_>, features: u64) -> io::Result<Status> {
        let Some(mut at) = self.data_offset(sector, reader.available_bytes()) else {
            return Ok(Status::IoError);
        };
        if self.disk.is_read_only() {
            return Ok(Status::IoError);
        }
        while reader.available_bytes() > 0 {
            let length = reader.available_bytes().min(BUFFER_SIZE);
            let Some(buffer) = self.buffer.get_mut(..length) else { return Ok(Status::IoError) };
            reader.read_exact(buffer)?;
            self.disk.write(at, buffer)?;
            at = at.saturating_add(u64::try_from(length).unwrap_or(u64::MAX));
        }
        // Without the flush feature, every write must be durable (5.2.6.2).
        if features & (1 << VIRTIO_BLK_F_FLUSH) == 0 {
            self.disk.flush()?;
        }
        Ok(Status::Ok)
    }

    /// Returns the offset of a request's data; `None` if it is not whole sectors, ends beyond the disk or is too long.
    fn data_offset(&self, sector: u64, length: usize) -> Option<u64> {
        let length = u64::try_from(length).ok().filter(|length| *length <= MAX_BYTES)?;
        let start = sector.checked_mul(SECTOR)?;
        let end = start.checked_add(length)?;
        (length.is_multiple_of(SECTOR) && end <= self.disk.size()).then_some(start)
    }
}

impl VirtioDevice for VirtioBlock {
    fn id(&self) -> u32 {
        VIRTIO_ID_BLOCK
    }

    fn features(&self) -> u64 {
        let read_only = if self.disk.is_read_only() { 1 << VIRTIO_BLK_F_RO } else { 0 };
        1 << VIRTIO_BLK_F_SIZE_MAX
            | 1 << VIRTIO_BLK_F_SEG_MAX
            | 1 << VIRTIO_BLK_F_BLK_SIZE
            | 1 << VIRTIO_BLK_F_FLUSH
            | read_only
    }

    fn queues(&self) -> &'static [u16] {
        &[QUEUE_SIZE]
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn save(&self) -> Vec<u8> {
        self.disk.save()
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), StateMismatch> {
        self.disk.restore(state)
    }

    fn serve(
        &mut self,
        _: usize,
        chains: &mut DescriptorChains<'_>,
        features: u64,
    ) -> Result<(), DriverError> {
        while let Some(chain) = chains.next()? {
            let head = chain.head;
            let written = self.request(chain, features)?;
            chains.add_used(head, written)?;
        }
        Ok(())
    }
}

/// `struct virtio_blk_config` (5.2.4) up to the fields of features that are not offered.
fn config(size: u64) -> [u8; 60] {
    let mut config = [0; 60];
    let fields: [(usize, &[u8]); 4] = [
        (0, &(size / SECTOR).to_le_bytes()),
        (8, &MAX_SEGMENT_SIZE.to_le_bytes()),
        (12, &MAX_SEGMENTS.to_le_bytes()),
        (20, &512_u32.to_le_bytes()),
    ];
    for (offset, field) in fields {
        for (byte, value) in config.iter_mut().skip(offset).zip(field) {
            *byte = *value;
        }
    }
    config
}
