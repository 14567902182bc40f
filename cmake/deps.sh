#!/bin/sh
# deps.sh: installs from Debian what the build and the tests need. Quiet when all is there.
set -eu

packages="build-essential cmake ninja-build pkg-config libdnnl-dev libjansson-dev libyaml-dev
libutf8proc-dev libcmocka-dev libavformat-dev libavcodec-dev libavutil-dev libswscale-dev
libswresample-dev sentencepiece clang clang-format clang-tidy libclang-rt-14-dev ffmpeg
python3 git strace"

missing=""
for package in $packages; do
    state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$state" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" -ne 0 ]; then
    echo "these packages are missing, and installing them needs root:"
    echo "    sudo apt-get install -y --no-install-recommends$missing"
    exit 1
fi
echo "installing:$missing"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# shellcheck disable=SC2086  # a list of words
apt-get install -y -qq --no-install-recommends $missing >/dev/null
