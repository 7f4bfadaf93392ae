#!/bin/busybox sh
# The first and only service of the nested host: loads KVM, runs one command, powers off.
# ttyS0 carries the command's output and nothing else; ttyS1 carries the kernel's messages and our verdict.

/bin/busybox --install -s /bin
export PATH=/bin HOME=/root

mount -t devtmpfs none /dev
exec </dev/null >/dev/ttyS1 2>&1
mount -t proc none /proc
mount -t sysfs none /sys
mkdir /dev/pts
mount -t devpts none /dev/pts
# Programs that talk to each other over 127.0.0.1.
ifconfig lo up
# Bytes must arrive as they were written: no carriage return before a newline.
stty -F /dev/ttyS0 raw

# Ends the nested host. The kernel falls silent first, so that it cannot write into the verdict's line.
verdict() {
	dmesg -n 1
	printf '\nnested-host: %s\n' "$1"
	poweroff -f
}

# Numbered so that each comes after those it depends on.
for module in /nested/modules/*.ko; do
	insmod "$module" || verdict "cannot load ${module##*/}"
done
[ -c /dev/kvm ] || verdict "there is no /dev/kvm"

# The emulator may lose an interrupt that comes in the very moment in which a guest is entered or left (QEMU 7.2 changes
# a CPU's pending interrupts there without its lock). If it was the timer's, that CPU stands still until the next
# interrupt from elsewhere. So each CPU starts a program on the other one, once a second.
taskset 1 sh -c 'while sleep 1; do taskset 2 true; done' &
taskset 2 sh -c 'while sleep 1; do taskset 1 true; done' &

sh /nested/command </nested/input >/dev/ttyS0 2>&1
verdict "status $?"
