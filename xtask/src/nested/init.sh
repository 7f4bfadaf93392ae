#!/bin/busybox sh
# Init process of the nested host: loads KVM, runs one command, powers off.
# ttyS0 carries only the output of the command. ttyS1 carries the kernel's messages and the verdict line.

/bin/busybox --install -s /bin
export PATH=/bin HOME=/root

mount -t devtmpfs none /dev
exec </dev/null >/dev/ttyS1 2>&1
mount -t proc none /proc
mount -t sysfs none /sys
mkdir /dev/pts
mount -t devpts none /dev/pts
# Some tests connect over 127.0.0.1.
ifconfig lo up
# Raw mode: no carriage return is added before a newline.
stty -F /dev/ttyS0 raw

# Prints the verdict line and powers off. Kernel messages are turned off first, so that none is printed into that line.
verdict() {
	dmesg -n 1
	printf '\nnested-host: %s\n' "$1"
	poweroff -f
}

# Numbered in the order of their dependencies.
for module in /nested/modules/*.ko; do
	insmod "$module" || verdict "cannot load ${module##*/}"
done
[ -c /dev/kvm ] || verdict "there is no /dev/kvm"

# QEMU 7.2 may lose an interrupt that arrives while a guest is entered or left, because it changes the pending interrupts
# of a CPU without its lock. After a lost timer interrupt that CPU stalls until the next interrupt. Therefore each CPU
# starts a program on the other one once a second.
taskset 1 sh -c 'while sleep 1; do taskset 2 true; done' &
taskset 2 sh -c 'while sleep 1; do taskset 1 true; done' &

sh /nested/command </nested/input >/dev/ttyS0 2>&1
verdict "status $?"
