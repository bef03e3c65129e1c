#!/bin/busybox sh
# What udhcpc calls with the address that it got.
[ "$1" = bound ] || [ "$1" = renew ] || exit 0
busybox ip address replace "$ip/${mask:-24}" dev "$interface"
for gateway in $router; do
	busybox ip route replace default via "$gateway"
	break
done
for server in $dns; do
	echo "nameserver $server"
done >/etc/resolv.conf
