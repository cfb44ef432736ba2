#!/bin/sh
# Install what tests bring up: network file systems, containers, batch systems, and a server.
#   scripts/testbed.sh [PART...]        (without arguments: all of them)
#     moosefs sshfs nfs                 for tests/hosts and benchmarks/hosts.py
#     podman docker apptainer           for tests/testbed/containers.py
#     slurm accounting htcondor redis   for tests/testbed, and to play with: make testbed
#     gridengine                        for tests/testbed/gridengine.py
# Needs root and apt-get; elsewhere it says so and exits 0, since those tests are skipped there, for the same reason.
# No service is started: tests start their own. What this release of Debian has not, or not new enough, is unpacked
# into $TESTBED_CACHE (by default /var/cache/taskfarmer-testbed) and not installed. A second run finds all and does nothing.
# Packages that are installed are kept there, too (debs), so that the next fresh machine with the same directory fetches
# none of them. To see that:
#   apt-get install -y --reinstall --download-only --no-download -o Dir::Cache::archives=$TESTBED_CACHE/debs slurmctld
set -eu

cache=${TESTBED_CACHE:-/var/cache/taskfarmer-testbed}
case $cache in /*) ;; *) cache=$PWD/$cache ;; esac # for apt, names are relative to a directory of its own
all="moosefs sshfs nfs podman docker apptainer slurm accounting htcondor gridengine redis"
unpacking="mmdebstrap patchelf"

packages='' unpack=''
# shellcheck disable=SC2086 # lists of words, here and below
[ $# -gt 0 ] || set -- $all
for part in "$@"; do
    case $part in
        moosefs) packages="$packages moosefs-master moosefs-chunkserver moosefs-client iproute2" ;;
        sshfs) packages="$packages sshfs openssh-server iproute2" ;;
        nfs) packages="$packages user-mode-linux nfs-kernel-server nfs-common iproute2 busybox-static" ;;
        podman) packages="$packages podman runc catatonit busybox-static bash-static" ;;
        docker) packages="$packages docker.io tini busybox-static bash-static" ;;
        apptainer)
            packages="$packages $unpacking squashfs-tools squashfuse busybox-static bash-static" unpack="$unpack $part" ;;
        slurm) packages="$packages slurmctld slurmd slurm-client munge" ;;
        accounting) packages="$packages slurmdbd mariadb-server-core mariadb-client-core gcc libc6-dev" ;;
        htcondor) packages="$packages $unpacking" unpack="$unpack $part" ;;
        gridengine)
            # Unpacked only: to install it would bring a mail server.
            packages="$packages libhwloc15 libjemalloc2 libmunge2 libtirpc3 libdb5.3 gcc libc6-dev" unpack="$unpack $part" ;;
        redis) packages="$packages redis-server" ;;
        *) echo "testbed.sh: $part is none of $all" >&2; exit 2 ;;
    esac
done

missing=
if command -v dpkg-query > /dev/null; then
    # shellcheck disable=SC2086
    there=$(dpkg-query --show --showformat='${db:Status-Status} ${Package}\n' $packages 2> /dev/null || :)
else
    there=
fi
for package in $packages; do
    case "
$there
" in
        *"
installed $package
"*) ;;
        *) missing="$missing $package" ;;
    esac
done
roots=
for part in $unpack; do
    [ -e "$cache/$part/.ready" ] || roots="$roots $part"
done
if [ -z "$missing$roots" ]; then
    exit 0
fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then
    echo "testbed.sh: not root on Debian: the tests with $* will be skipped" >&2
    exit 0
fi

if [ -n "$missing" ]; then
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
    mkdir -p "$cache/debs/partial"
    # shellcheck disable=SC2086
    apt-get -qq install -y --no-install-recommends -o Dir::Cache::archives="$cache/debs" \
        -o APT::Keep-Downloaded-Packages=true $missing > /dev/null
fi

# unpack_package SUITE PACKAGE DIRECTORY: the package of another release of Debian, with all that it needs.
unpack_package() {
    rm -rf "$3"
    mkdir -p "$cache"
    mmdebstrap --quiet --mode=root --variant=extract --aptopt='APT::Install-Recommends "false"' \
        --aptopt='Acquire::Check-Valid-Until "false"' --include="$2" "$1" "$3"
    rm -rf "$3/usr/share/doc" "$3/usr/share/man" "$3/usr/share/locale" "$3/usr/share/info"
    mkdir "$3/path"
}

# use_libraries DIRECTORY LIBRARIES PROGRAM...: let programs use the loader and the libraries that came with them.
use_libraries() {
    libraries=$2
    loader=$(find "$1"/usr/lib/*-linux-gnu* -maxdepth 1 -name 'ld-linux*.so*' | head -n 1)
    shift 2
    for file in "$@"; do
        if [ -f "$file" ] && [ ! -L "$file" ] && patchelf --print-interpreter "$file" > /dev/null 2>&1; then
            patchelf --set-interpreter "$loader" --force-rpath --set-rpath "$libraries" "$file"
        fi
    done
}

unpack_apptainer() {
    root=$cache/apptainer
    unpack_package sid apptainer "$root"
    libraries=$(dirname "$root"/usr/lib/*/apptainer)
    use_libraries "$root" "$libraries" "$root/usr/bin/apptainer" "$libraries/apptainer/bin/starter"
    # It looks for its files relative to itself.
    ln -sfn ../etc "$root/usr/etc"
    ln -sfn ../../etc "$root/usr/lib/etc"
    mkdir -p "$root/usr/var/lib/apptainer/mnt/session" "$root/usr/lib/var/lib/apptainer/mnt/session"
    # A root without every capability, as in containers and some virtual machines, may not ask for all of them.
    sed -i 's/^root default capabilities.*/root default capabilities = no/' "$root/etc/apptainer/apptainer.conf"
    ln -s "$root/usr/bin/apptainer" "$root/path/apptainer"
    ln -s "$root/usr/bin/apptainer" "$root/path/singularity"
}

unpack_htcondor() {
    root=$cache/htcondor
    unpack_package trixie condor "$root"
    use_libraries "$root" "$(dirname "$root"/usr/lib/*/libc.so.6):$root/usr/lib" \
        "$root"/usr/bin/condor_* "$root"/usr/sbin/condor_* "$root"/usr/libexec/condor/*
    # usr/bin has that release's perl, dpkg and others besides, which must not come before those of this system.
    ln -s "$root"/usr/bin/condor_* "$root"/usr/sbin/condor_* "$root/path/"
}

unpack_gridengine() {
    root=$cache/gridengine
    rm -rf "$root"
    mkdir -p "$root/debs"
    (cd "$root/debs" && apt-get -qq download gridengine-master gridengine-exec gridengine-client gridengine-common)
    for file in "$root"/debs/*.deb; do
        dpkg -x "$file" "$root"
    done
    rm -rf "$root/debs"
    # Spooling libraries are looked for in /usr/lib/gridengine whatever SGE_ROOT says; now by what the bootstrap file says.
    python3 - "$root"/usr/lib/gridengine/sge_qmaster "$root"/usr/lib/gridengine/spoolinit \
        "$root"/usr/lib/gridengine/spooldefaults.bin << 'END'
import pathlib, sys
old = b"/usr/lib/gridengine/%s%s\0"
for path in map(pathlib.Path, sys.argv[1:]):
    program = path.read_bytes()
    assert program.count(old) == 1, path
    path.write_bytes(program.replace(old, b"%s%s".ljust(len(old), b"\0")))
END
}

for part in $roots; do
    "unpack_$part"
    touch "$cache/$part/.ready"
done
