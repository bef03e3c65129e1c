#!/bin/busybox sh
# PID 1 of a guest whose root is a disk made by `tagalong guest rootfs`.

export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export HOME=/root LANG=C.UTF-8 TERM="${TERM:-vt100}" SHELL=/bin/bash

busybox mount -t proc proc /proc
busybox mount -t sysfs sys /sys
[ -e /dev/null ] || busybox mount -t devtmpfs dev /dev
busybox mkdir -p /dev/pts /dev/shm
busybox mount -t devpts devpts /dev/pts
busybox mount -t tmpfs shm /dev/shm
busybox mount -t tmpfs run /run
busybox mount -t tmpfs tmp /tmp
busybox hostname -F /etc/hostname

. /lib/guest/session
