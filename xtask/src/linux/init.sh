#!/bin/busybox sh
# The first process of the guest that `cargo xtask test --linux` boots: makes a shell possible and becomes one.

/bin/busybox --install -s /bin
export PATH=/bin

mount -t devtmpfs none /dev
mount -t proc none /proc
mount -t sysfs none /sys
# Numbered so that each comes after those it depends on.
for module in /modules/*.ko; do
	insmod "$module"
done
# The controlling terminal makes it a shell that a user would have: with line editing and Ctrl-C.
exec setsid cttyhack sh
