#!/bin/sh
# Install the Debian packages with which tests/hosts and benchmarks/hosts.py bring up network file systems.
#   scripts/install_filesystems.sh [moosefs] [sshfs] [nfs]        (without arguments: all three, 45 MB to fetch)
# Needs root and apt-get; elsewhere it says so and exits 0, since those tests are skipped there, for the same reason.
# No service is started: each test starts its own servers, in namespaces of its own.
set -eu

moosefs="moosefs-master moosefs-chunkserver moosefs-client iproute2"
sshfs="sshfs openssh-server iproute2"
nfs="user-mode-linux nfs-kernel-server nfs-common iproute2 busybox-static"

packages=
[ $# -gt 0 ] || set -- moosefs sshfs nfs
for group in "$@"; do
    case $group in
        moosefs) packages="$packages $moosefs" ;;
        sshfs) packages="$packages $sshfs" ;;
        nfs) packages="$packages $nfs" ;;
        *) echo "install_filesystems.sh: $group is none of moosefs, sshfs, nfs" >&2; exit 2 ;;
    esac
done

missing=
for package in $packages; do
    dpkg-query --show --showformat='${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed ||
        missing="$missing $package"
done
if [ -z "$missing" ]; then
    exit 0
fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then
    echo "install_filesystems.sh: not root on Debian: the tests on network file systems will be skipped" >&2
    exit 0
fi

# The packages' scripts ask this one whether they may start their services.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    printf '#!/bin/sh\nexit 101\n' > $policy
    chmod +x $policy
    trap 'rm -f $policy' EXIT
    trap 'exit 1' INT TERM
fi
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update
# shellcheck disable=SC2086 # a list of words
apt-get -qq install -y --no-install-recommends $missing > /dev/null
