#!/bin/sh
# Install the Debian packages with which tests/testbed brings up Podman, Docker and Apptainer.
#   scripts/install_containers.sh [podman] [docker] [apptainer]        (without arguments: all three)
# Needs root and apt-get; elsewhere it says so and exits 0, since those tests are skipped there, for the same reason.
# No service is started. Apptainer is unpacked, not installed, into $TESTBED_CACHE (by default
# /var/cache/taskfarmer-testbed), since Debian has it in sid only; a second run finds all of it and does nothing.
set -eu

podman="podman runc catatonit busybox-static bash-static"
docker="docker.io tini busybox-static bash-static"
apptainer="mmdebstrap patchelf squashfs-tools squashfuse busybox-static bash-static"
cache=${TESTBED_CACHE:-/var/cache/taskfarmer-testbed}

packages= unpack=
[ $# -gt 0 ] || set -- podman docker apptainer
for group in "$@"; do
    case $group in
        podman) packages="$packages $podman" ;;
        docker) packages="$packages $docker" ;;
        apptainer) packages="$packages $apptainer" unpack=1 ;;
        *) echo "install_containers.sh: $group is none of podman, docker, apptainer" >&2; exit 2 ;;
    esac
done

missing=
for package in $packages; do
    dpkg-query --show --showformat='${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed ||
        missing="$missing $package"
done
root=$cache/apptainer
[ -z "$unpack" ] || [ ! -e "$root/.ready" ] || unpack=
if [ -z "$missing$unpack" ]; then
    exit 0
fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then
    echo "install_containers.sh: not root on Debian: the tests with containers will be skipped" >&2
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
    # shellcheck disable=SC2086 # a list of words
    apt-get -qq install -y --no-install-recommends $missing > /dev/null
fi
[ -n "$unpack" ] || exit 0

# Sid's program with sid's own libraries, in a directory; it looks for its files relative to itself.
rm -rf "$root"
mkdir -p "$cache"
mmdebstrap --quiet --mode=root --variant=extract --aptopt='APT::Install-Recommends "false"' \
    --aptopt='Acquire::Check-Valid-Until "false"' \
    --include=apptainer sid "$root"
libraries=$(dirname "$root"/usr/lib/*/apptainer)
loader=$(find "$libraries" -maxdepth 1 -name 'ld-linux*.so*' | head -n 1)
for file in "$root/usr/bin/apptainer" "$libraries/apptainer/bin/starter"; do
    patchelf --set-interpreter "$loader" --force-rpath --set-rpath "$libraries" "$file"
done
ln -sfn ../etc "$root/usr/etc"
ln -sfn ../../etc "$root/usr/lib/etc"
mkdir -p "$root/usr/var/lib/apptainer/mnt/session" "$root/usr/lib/var/lib/apptainer/mnt/session" "$root/path"
# A root without every capability, as in containers and some virtual machines, may not ask for all of them.
sed -i 's/^root default capabilities.*/root default capabilities = no/' "$root/etc/apptainer/apptainer.conf"
ln -sfn "$root/usr/bin/apptainer" "$root/path/apptainer"
ln -sfn "$root/usr/bin/apptainer" "$root/path/singularity"
rm -rf "$root/usr/share/doc" "$root/usr/share/man" "$root/usr/share/locale" "$root/usr/share/info"
touch "$root/.ready"
