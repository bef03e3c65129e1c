#!/bin/busybox sh
# PID 1 of the Linux guest in its initial RAM disk: makes a system of the kernel and this small root
# file system. With root=DEVICE on the kernel's command line it goes on to the /sbin/init of that
# disk; else it runs the words behind "--" there, or a shell (session).

export PATH=/bin HOME=/root LANG=C.UTF-8 TERM="${TERM:-vt100}"

busybox mount -t proc proc /proc
busybox mount -t sysfs sys /sys
busybox mount -t devtmpfs dev /dev

for module in /lib/guest/*.ko; do
	[ -e "$module" ] && busybox insmod "$module"
done

root=
rights=ro
for word in $(busybox cat /proc/cmdline); do
	case $word in
	--) break ;;
	root=*) root=${word#root=} ;;
	ro | rw) rights=$word ;;
	esac
done

if [ -n "$root" ]; then
	tries=0
	until [ -b "$root" ] || [ "$tries" -ge 100 ]; do
		busybox sleep 0.1
		tries=$((tries + 1))
	done
	[ "$rights" = rw ] && e2fsck -p "$root" >/dev/null
	if busybox mount -o "$rights" "$root" /mnt; then
		for folder in dev sys proc; do
			busybox umount "/$folder"
		done
		exec busybox switch_root /mnt /sbin/init "$@"
	fi
	echo "guest: cannot mount root=$root; this is the initial RAM disk"
	set --
fi

busybox mkdir -p /dev/pts /dev/shm
busybox mount -t devpts devpts /dev/pts
busybox mount -t tmpfs shm /dev/shm
busybox mount -t tmpfs tmp /tmp
busybox hostname guest

. /lib/guest/session
