#!/bin/sh
# The first process of the machine `cargo xtask vm` boots. Everything that checks.py judges is on the second disk.
# With "lastword.systemd" on the kernel's command line systemd goes on from here, and starts the checks itself.
mount -t proc proc /proc 2>/dev/null
mount -t sysfs sysfs /sys 2>/dev/null
mount -o ro /dev/vdb /vm
if grep -qw lastword.systemd /proc/cmdline; then
    exec /lib/systemd/systemd
fi
echo 1 >/proc/sys/kernel/printk
mount -t cgroup2 -o nsdelegate cgroup2 /sys/fs/cgroup
mount -t tmpfs -o mode=1777 tmpfs /tmp
ip link set lo up 2>/dev/null
# Not exec: this shell reaps whatever the checks leave behind, as an init does.
python3 -u /vm/checks.py bare </dev/null >/dev/ttyS0 2>&1
echo o >/proc/sysrq-trigger
# The switch is thrown in the background, and the first process may not end.
while :; do sleep 60; done
