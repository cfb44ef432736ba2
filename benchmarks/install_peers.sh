#!/bin/sh
# Install the programs that benchmarks/peers.py compares taskfarmer with.
#
#     sh benchmarks/install_peers.sh [DIRECTORY]        (default: .bench in the current directory)
#
# Python peers get a virtual environment each, DIRECTORY/NAME, since the package of PyTaskFarmer bears the name of ours.
# GNU parallel and xargs come from Debian, which only root can install. What cannot be had is said here, and stands in
# the table of peers.py as missing. Exit status: 0 everything is there, 1 something is missing.
set -u

directory=${1:-.bench}
python=${PYTHON:-python3}
scripts=$(cd "$(dirname "$0")/../scripts" && pwd) || exit 1
missing=0

absent() {
    echo "missing: $1: $2" >&2
    missing=1
}

from_debian() {
    command -v "$1" >/dev/null && return
    if [ "$(id -u)" -ne 0 ]; then
        absent "$1" "only root can install it: apt-get install $2"
    elif ! apt-get install --yes --quiet "$2" >/dev/null; then
        absent "$1" "apt-get install $2 failed"
    fi
}

from_pypi() {
    environment=$directory/$1
    if ! "$python" "$scripts/make_venv.py" "$environment"; then
        absent "$1" "no virtual environment"
    elif ! "$environment/bin/python" -m pip --quiet --disable-pip-version-check install "$2"; then
        absent "$1" "pip install $2 failed"
    fi
}

mkdir -p "$directory" || exit 1
from_debian xargs findutils
from_debian parallel parallel
# The versions that the tables in README.md were made with. The wheel of HyperQueue has no hq program, but contains
# the server and the worker, which drivers/hyperqueue_cluster.py starts.
from_pypi hyperqueue hyperqueue==0.27.0
from_pypi pytaskfarmer pytaskfarmer==0.1.0
from_pypi disbatch disbatch==3.0
from_pypi parsl parsl==2026.10.26
[ "$missing" -eq 0 ] && echo "peers are in $directory"
exit "$missing"
