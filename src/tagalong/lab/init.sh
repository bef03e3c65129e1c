#!/bin/busybox sh
# PID 1 of the lab: makes a Linux host of the kernel and the root file system, runs
# /lab/command (or a shell), and reports its exit status through a port.

# The kernel's first root is no root to leave: pivot_root refuses it, and with anything mounted over
# it a process in it counts as chrooted, which may make no user namespace. So a second mount of the
# same files becomes the root, as switch_root does it; no file is copied.
if [ "$1" != moved ] && busybox mount --bind / /mnt && cd /mnt && busybox mount --move . /; then
	exec busybox chroot . /init moved
fi

export PATH=/opt/tagalong/bin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export HOME=/root LANG=C.UTF-8 TAGALONG_INSIDE_LAB=1
export PYTHONPATH=/tagalong/src:/opt/tagalong/packages PYTHONUNBUFFERED=1
export OPENBLAS_NUM_THREADS=1

busybox mount -t proc proc /proc
busybox mount -t sysfs sys /sys
busybox mount -t devtmpfs dev /dev
busybox mkdir -p /dev/pts /dev/shm /dev/virtio-ports
busybox mount -t devpts devpts /dev/pts
busybox mount -t tmpfs shm /dev/shm
busybox mount -t tmpfs run /run
busybox ln -s /proc/self/fd /dev/fd
busybox ln -s /proc/self/fd/0 /dev/stdin
busybox ln -s /proc/self/fd/1 /dev/stdout
busybox ln -s /proc/self/fd/2 /dev/stderr
busybox ip link set lo up
busybox hostname lab

for module in /lab/modules/*.ko; do
	[ -e "$module" ] && busybox insmod "$module"
done

# Ports get their names some time after their driver is there.
for wanted in $(busybox cat /lab/ports); do
	until [ -e "/dev/virtio-ports/$wanted" ]; do
		for port in /sys/class/virtio-ports/*; do
			name=
			[ -e "$port/name" ] && read -r name <"$port/name"
			[ "$name" = "$wanted" ] &&
				busybox ln -s "../${port##*/}" "/dev/virtio-ports/$wanted" && break
		done || busybox sleep 0.02
	done
done

cd /tagalong || cd /

# On the console, which is shown if the machine is lost.
echo "lab: ready after $(busybox cut -d' ' -f1 /proc/uptime) s"

if [ -e /lab/command ]; then
	# Pipes, because a port cannot be opened twice, and programs do open /dev/stdout.
	for stream in stdout stderr; do
		busybox mkfifo "/run/$stream"
		busybox tee "/dev/virtio-ports/$stream" <"/run/$stream" |
			busybox wc -c >"/run/$stream.count" &
	done
	ours=" $(cd /proc && echo [0-9]*) "
	stdin=/dev/virtio-ports/stdin
	[ -e "$stdin" ] || stdin=/dev/null
	busybox setsid busybox sh /lab/command <"$stdin" >/run/stdout 2>/run/stderr
	status=$?
	# What the command left behind would keep its end of the pipes open.
	for process in /proc/[0-9]*; do
		process=${process#/proc/}
		case $ours in
		*" $process "*) ;;
		*) kill -9 "$process" 2>/dev/null ;;
		esac
	done
	wait
	# What is written to a port is on its way, not there: the other side waits for as much.
	status="$status $(busybox cat /run/stdout.count) $(busybox cat /run/stderr.count)"
else
	until [ -e /dev/hvc0 ]; do
		busybox sleep 0.02
	done
	busybox setsid -c busybox sh /lab/shell <>/dev/hvc0 >&0 2>&1
	status=$?
fi

echo "$status" >/dev/virtio-ports/status
# The other side ends the machine when it has everything; a power-off would lose the rest.
busybox sleep 1000
busybox poweroff -f
