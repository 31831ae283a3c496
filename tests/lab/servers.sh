#!/bin/sh
# servers.sh DIRECTORY - puts the servers and clients that the helper tests talk to below DIRECTORY, without installing them:
# an installed vsftpd, ngircd or tftpd-hpa starts at once, and again at every boot. Only the libraries that they need are
# installed. Needs apt and root; the tests find the programs by PATH.
set -eu
into=$1
command -v apt-get >/dev/null || { echo "servers.sh: no apt-get here; the tests with real servers will skip" >&2; exit 0; }
packages="vsftpd ngircd tftpd-hpa tftp-hpa sip-tester"
export DEBIAN_FRONTEND=noninteractive
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 777 "$work"  # apt downloads as a user of its own
libraries=$(apt-cache depends --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces --no-enhances \
    $packages | sed -n 's/^ *|*Depends: \(lib[^<>]*\)$/\1/p' | sort -u)
apt-get -qq install -y --no-install-recommends $libraries >/dev/null
(cd "$work" && apt-get -qq download $packages)
rm -rf "$into"
mkdir -p "$into"
for package in "$work"/*.deb; do dpkg-deb -x "$package" "$into"; done
