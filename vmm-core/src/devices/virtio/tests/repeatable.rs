//! Devices whose part in a run can be repeated.

use std::path::PathBuf;

use super::super::unrepeatable;
use crate::spec::{BlockAccess, BlockSpec, VirtioSpec};

#[test]
fn repeatable_devices() {
    let disk = |access| VirtioSpec::Block(BlockSpec { image: PathBuf::new().into(), access });
    let console = |input| VirtioSpec::Console { input };
    assert_eq!(
        unrepeatable(&[disk(BlockAccess::ReadOnly), disk(BlockAccess::Temporary), console(false)]),
        None
    );
    assert_eq!(unrepeatable(&[console(false), disk(BlockAccess::InPlace)]), Some("virtio-block"));
    assert_eq!(unrepeatable(&[disk(BlockAccess::Overlay(PathBuf::new()))]), Some("virtio-block"));
    assert_eq!(unrepeatable(&[console(true), VirtioSpec::Entropy]), Some("virtio-console"));
    assert_eq!(unrepeatable(&[VirtioSpec::Entropy]), Some("virtio-entropy"));
}
