#!/bin/sh
# The first process of the bed of systemd.py, from new namespaces to systemd: systemd_init.sh STAGE SYSTEMD...
#
# STAGE is a directory of the bed's: `pid` gets our number as the host counts, `files` is copied over the root, and
# `binds` has a line "ro|rw SOURCE TARGET" for each part of the host that is shown inside; `prepare`, if it is there, is
# a script to run inside before systemd. All mounts are private to this mount namespace and end with it. The host's
# knobs are read-only, but for those of the network, which is ours.
set -eu
stage=$1
shift
read -r pid _ </proc/self/stat

mount -t tmpfs -o mode=755 upper "$stage/root"
cd "$stage/root"
mkdir upper work root
mount -t overlay -o lowerdir=/,upperdir=upper,workdir=work root root
cd root

mount -t tmpfs -o mode=755,nosuid dev dev
mkdir dev/net
for node in null zero full random urandom tty net/tun; do
    [ -c "/dev/$node" ] || continue
    : >"dev/$node"
    mount --bind "/dev/$node" "dev/$node"
done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
ln -s fd/0 dev/stdin
ln -s fd/1 dev/stdout
ln -s fd/2 dev/stderr
mount -t tmpfs -o mode=1777,nosuid,nodev shm dev/shm
mount -t tmpfs -o mode=755,nosuid,nodev run run
mount -t tmpfs -o mode=1777,nosuid,nodev tmp tmp

mount -t proc -o nosuid,nodev,noexec proc proc
mount --bind proc/sys/net proc/sys/net  # the only knobs that are ours
for knobs in proc/sys proc/sysrq-trigger proc/irq; do
    [ -e "$knobs" ] || continue
    mount --rbind "$knobs" "$knobs"
    mount -o remount,bind,ro "$knobs"
done
mount -t sysfs -o nosuid,nodev,noexec,ro sysfs sys
mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 sys/fs/cgroup  # of the new cgroup namespace: our part alone

# A system without the host's services, mounts and generators. Of systemd's own units what needs no hardware.
rm -rf etc/systemd/system etc/rc?.d etc/fstab etc/crypttab lib/systemd/system-generators/* .dockerenv
mkdir etc/systemd/system
for unit in lib/systemd/system/*.target.wants/*; do
    case ${unit##*/} in
        systemd-journald.s* | systemd-journald-dev-log.socket | systemd-tmpfiles-setup.service) ;;
        systemd-sysusers.service) ;;
        *) rm -f "$unit" ;;
    esac
done
mkdir -p etc/systemd/journald.conf.d
printf '[Journal]\nStorage=volatile\nReadKMsg=no\nAudit=no\nRateLimitBurst=0\n' >etc/systemd/journald.conf.d/bed.conf
tr -d - </proc/sys/kernel/random/uuid >etc/machine-id  # without it systemd thinks of a first boot
hostname bed
echo bed >etc/hostname
printf '127.0.0.1 localhost bed\n::1 localhost\n' >etc/hosts

cp -a "$stage/files/." .
while read -r mode source target; do
    if [ -d "$source" ]; then
        mkdir -p ".$target"
    else
        mkdir -p ".${target%/*}"
        : >>".$target"
    fi
    mount --rbind "$source" ".$target"
    [ "$mode" = rw ] || mount -o remount,bind,ro ".$target"
done <"$stage/binds"

if [ -e "$stage/prepare" ]; then
    env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 \
        DEBIAN_FRONTEND=noninteractive setpriv --bounding-set=-sys_module,-sys_rawio,-sys_time,-syslog \
        chroot . sh -e <"$stage/prepare"
fi

echo "$pid" >"$stage/pid.new"
mv "$stage/pid.new" "$stage/pid"
mkdir run/host
pivot_root . run/host
exec </dev/null >/dev/null 2>&1
umount -l /run/host
rmdir /run/host
cd /
exec env -i container=bed PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 "$@"
