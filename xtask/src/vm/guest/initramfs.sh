#!/bin/busybox sh
# First process of a guest: loads what the root disk needs, mounts it, copies the payload onto it and hands over.
b=/bin/busybox
die() {
    echo "bulkhead-guest: $1" > /dev/console
    $b poweroff -f
}
$b mkdir -p /dev /root
$b mount -t devtmpfs dev /dev || die "no devtmpfs"
for module in /modules/*.ko; do
    [ -e "$module" ] || continue
    $b insmod "$module" || die "cannot load $module"
done
tries=0
while [ ! -b /dev/vda ]; do
    tries=$((tries + 1))
    [ "$tries" -lt 100 ] || die "the root disk did not appear"
    $b usleep 100000
done
$b mount -t ext4 -o noatime /dev/vda /root || die "the root disk cannot be mounted"
$b mkdir -p /root/guest
$b mount -t tmpfs -o mode=755 guest /root/guest || die "no tmpfs"
$b cp -a /payload/. /root/guest/ || die "the payload cannot be copied"
$b mount -o move /dev /root/dev || die "cannot move /dev"
$b mount -t proc proc /root/proc
exec $b switch_root /root /bin/sh /guest/run.sh
