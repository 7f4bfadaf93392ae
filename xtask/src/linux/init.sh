#!/bin/busybox sh
# Init process of the guest that `cargo xtask test --linux` boots. It prepares the system and becomes a shell.

/bin/busybox --install -s /bin
export PATH=/bin

mount -t devtmpfs none /dev
mount -t proc none /proc
mount -t sysfs none /sys
# Numbered in the order of their dependencies.
for module in /modules/*.ko; do
	insmod "$module"
done
# With a controlling terminal the shell has line editing and Ctrl-C.
exec setsid cttyhack sh
