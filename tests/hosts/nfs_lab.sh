#!/bin/bash
# Run a command where the kernel has NFS, server and client, though the kernel of this machine may have neither: in
# Debian's user-mode Linux, which is an ordinary program. Its root is the root of this machine, as it is now and
# copy-on-write, in memory: the same Python is there, and what the command writes is lost, but for the directory OUT.
#   usage: OUT=dir nfs_lab.sh COMMAND [ARGUMENT...]
#   MEM    memory of the guest, which has one processor (1024M)
#   LIMIT  seconds after which it is ended (600)
# Exit status: that of the command; 99 if the guest did not come so far.
set -euo pipefail
[ $# -gt 0 ] || { sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2; }
OUT=$(realpath -m "${OUT:-$(mktemp -d)}")
mkdir -p "$OUT"
rm -f "$OUT/status"
{
    declare -px
    printf 'export OUT=%q\ncd %q\nset --' "$OUT" "$PWD"
    printf ' %q' "$@"
    echo
} > "$OUT/command"

cat > "$OUT/init" <<'INIT'
#!/bin/bash
# First in the guest: once to give it a root it can write to, and once more within that root.
out=${1:?}
load() { # a module, after those that it needs
    local modules=/usr/lib/uml/modules/$(uname -r) needed= module
    for module in $(sed -n "s|^$1:||p" "$modules/modules.dep"); do needed="$module $needed"; done
    for module in $needed $1; do busybox insmod "$modules/$module" 2>/dev/null; done
}
PATH=/usr/sbin:/usr/bin:/sbin:/bin
if [ "${2:-}" != again ]; then
    mount -t proc proc /proc
    load kernel/fs/overlayfs/overlay.ko
    mount -t tmpfs tmpfs /mnt
    mkdir /mnt/{upper,work,root}
    mount -t overlay overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work /mnt/root
    mkdir -p "/mnt/root$out"
    mount -t hostfs none "/mnt/root$out" -o "$out"
    umount /proc
    cd /mnt/root
    pivot_root . mnt # and no chroot, which machines of namespaces would not be in
    exec chroot . "$out/init" "$out" again
fi
{
    umount -l /mnt
    mount -t proc proc /proc
    mount -t sysfs sys /sys
    mount -t devtmpfs dev /dev
    mkdir -p /dev/shm /dev/pts
    mount -t devpts devpts /dev/pts
    ln -sfn /proc/self/fd /dev/fd
    for place in /run /dev/shm /mnt; do mount -t tmpfs tmpfs $place; done
    chmod 1777 /dev/shm
    for module in drivers/net/veth fs/nfs/nfsv3 fs/nfs/nfsv4 fs/nfsd/nfsd; do load kernel/$module.ko; done
    ip link set lo up
    hostname laboratory
} > "$out/guest" 2>&1
. "$out/command"
export PATH="$PATH:/usr/sbin:/usr/bin:/sbin:/bin"
"$@" > "$OUT/stdout" 2> "$OUT/stderr" < /dev/null
echo $? > "$OUT/status"
busybox poweroff -f
INIT
chmod +x "$OUT/init"

# Its memory is a file in TMPDIR, which for speed should be in memory itself.
[ -w /dev/shm ] && export TMPDIR=/dev/shm
timeout -k 5 "${LIMIT:-600}" linux.uml "mem=${MEM:-1024M}" root=/dev/root rootfstype=hostfs rootflags=/ ro \
    "init=$OUT/init" con=null con0=null,fd:1 -- "$OUT" < /dev/null > "$OUT/console" 2>&1 || true
[ -f "$OUT/stdout" ] && cat "$OUT/stdout"
[ -f "$OUT/stderr" ] && cat "$OUT/stderr" >&2
[ -s "$OUT/status" ] && exit "$(cat "$OUT/status")"
echo "nfs_lab.sh: the guest did not run the command; see $OUT/console and $OUT/guest" >&2
exit 99
