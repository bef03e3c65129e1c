#!/bin/busybox sh
# PID 1 of the Linux guest: makes a system of the kernel and this small root file system, and runs
# the words that stand behind "--" on the kernel's command line, or a shell. Then it powers off.

export PATH=/bin HOME=/root LANG=C.UTF-8 TERM="${TERM:-vt100}"

busybox mount -t proc proc /proc
busybox mount -t sysfs sys /sys
busybox mount -t devtmpfs dev /dev
busybox mkdir -p /dev/pts /dev/shm
busybox mount -t devpts devpts /dev/pts
busybox mount -t tmpfs shm /dev/shm
busybox mount -t tmpfs tmp /tmp
busybox hostname guest
busybox ip link set lo up

for module in /lib/guest/*.ko; do
	[ -e "$module" ] && busybox insmod "$module"
done

if [ -e /sys/class/net/eth0 ]; then
	busybox ip link set eth0 up
	busybox udhcpc -i eth0 -n -q -S -s /lib/guest/dhcp >/dev/null 2>&1 &
fi

if [ $# -gt 0 ]; then
	"$@"
	echo "guest: $1 ended with status $?"
else
	echo "guest: ready after $(busybox cut -d' ' -f1 /proc/uptime) s; exit powers it off"
	busybox setsid busybox cttyhack busybox sh
fi
busybox sync
busybox poweroff -f
