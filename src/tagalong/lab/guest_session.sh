# The rest of a guest's PID 1: network, then the words that it was given, or a shell; then it brings
# everything to its disks and powers off. The VM's power button ends whatever runs, and so does that.

busybox ip link set lo up
if [ -e /sys/class/net/eth0 ]; then
	busybox ip link set eth0 up
	busybox udhcpc -i eth0 -n -q -S -s /lib/guest/dhcp >/dev/null 2>&1 &
fi

# Programs get TERM, and a shell, which ignores it, HUP; what is left after 2 s is killed.
watch_button() {
	powerbutton 2>/dev/null || return
	echo "guest: the power button was pressed"
	kill -TERM -1
	kill -HUP -1
	busybox sleep 2
	kill -KILL -1
}
watch_button &

if [ $# -gt 0 ]; then
	"$@"
	echo "guest: $1 ended with status $?"
else
	echo "guest: ready after $(busybox cut -d' ' -f1 /proc/uptime) s; exit powers it off"
	busybox setsid busybox cttyhack "${SHELL:-sh}"
fi
# What still has files open would keep a disk from being unmounted.
kill -TERM -1 2>/dev/null
busybox sleep 0.1
kill -KILL -1 2>/dev/null
busybox swapoff -a 2>/dev/null
busybox umount -a -r 2>/dev/null
busybox mount -o remount,ro / 2>/dev/null
busybox sync
busybox poweroff -f
