#!/bin/sh
# The machine's first program, until systemd takes over: `/` is the host's, read-only. Makes the machine's own disk, with
# the host's programs and libraries to read, and installs guardiand there as a package would.
#
# $1: the folder with this file, in which `root` is empty and `facts` names the files to install.
set -eu
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
here=$1
. "$here/facts"

mount -n -t proc proc /proc
mke2fs -q -t ext4 -F /dev/ubda
mount -n -t ext4 /dev/ubda "$here/root"
cd "$here/root"
mkdir -p usr/bin etc/systemd/system etc/guardiand var/lib var/log var/tmp dev proc sys run tmp srv root home host
chmod 1777 tmp var/tmp
ln -s /run var/run
for folder in bin sbin lib lib32 lib64 libx32; do
    [ ! -e "/usr/$folder" ] || ln -s "usr/$folder" "$folder"
done
# /usr/bin is the machine's own, since guardiand is installed there.
for folder in sbin lib lib64 libexec share; do
    [ -d "/usr/$folder" ] || continue
    mkdir "usr/$folder"
    mount -n -t hostfs -o "ro,/usr/$folder" none "usr/$folder"
done
install -m 0755 "$guardiand" usr/bin/guardiand
install -m 0755 "$writer" usr/bin/writer
install -m 0644 "$unit" etc/systemd/system/guardiand.service
install -m 0644 "$here/promises.service" etc/systemd/system/promises.service

cat >etc/passwd <<'END'
root:x:0:0:root:/root:/bin/sh
app:x:1234:1234::/home/app:/usr/sbin/nologin
nobody:x:65534:65534::/:/usr/sbin/nologin
END
printf '%s\n' root:x:0: tty:x:5: systemd-journal:x:101: app:x:1234: nogroup:x:65534: >etc/group
echo 'passwd: files' >etc/nsswitch.conf
tr -d - </proc/sys/kernel/random/uuid >etc/machine-id
echo guardian >etc/hostname
: >etc/fstab
cp /etc/ld.so.cache etc/
[ ! -d /etc/alternatives ] || cp -a /etc/alternatives etc/
# What a machine of one minute does not need.
for unit in systemd-sysusers systemd-tmpfiles-setup systemd-tmpfiles-setup-dev systemd-udevd systemd-udev-trigger \
    systemd-logind systemd-networkd systemd-timesyncd systemd-random-seed systemd-update-utmp dbus modprobe@; do
    ln -s /dev/null "etc/systemd/system/$unit.service"
done

mount -n --move /proc proc
mount -n --move /dev dev
mount -n -t sysfs sysfs sys
mount -n -t tmpfs -o mode=755 tmpfs run
pivot_root . host
# Not before: ln would see the link's own place.
/host/usr/bin/ln -s -t /usr/bin /host/usr/bin/* 2>/dev/null || true
exec env -i PATH="$PATH" LANG=C.UTF-8 /lib/systemd/systemd --system --unit=promises.service --log-target=journal --show-status=0
