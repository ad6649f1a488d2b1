#!/usr/bin/env bash
# Install Debian packages, those named or else all of requirements/debian.txt: as root by apt-get, otherwise name the
# missing ones and go on. No service is started: the tests start their own, in private folders.
set -euo pipefail
cd "$(dirname "$0")/.."

wanted=("$@")
without="what needs them will not work"
if [ $# -eq 0 ]; then
  mapfile -t wanted < <(sed 's/[[:space:]]*#.*//; /^$/d' requirements/debian.txt)
  without="the tests that need them will be skipped"
fi
if ! command -v dpkg-query >/dev/null; then
  [ $# -gt 0 ] || echo "debian: this is not Debian; see requirements/debian.txt for the programs that the tests need" >&2
  exit 0
fi
installed=" $(dpkg-query -W -f '${db:Status-Abbrev}${Package} ' | tr -s ' ' | sed 's/\bii //g') "
missing=()
for package in "${wanted[@]}"; do
  case $installed in
  *" $package "*) ;;
  *) missing+=("$package") ;;
  esac
done
[ ${#missing[@]} -gt 0 ] || exit 0

if [ "$(id -u)" -ne 0 ]; then
  cat >&2 <<TEXT
debian: these packages are missing, and $without:
debian:   ${missing[*]}
debian: to install them: sudo apt-get install --no-install-recommends ${missing[*]}
TEXT
  exit 0
fi

echo "debian: installing ${missing[*]}" >&2
log=$(mktemp)
policy=/usr/sbin/policy-rc.d
made_policy=
clean() {
  [ -z "$made_policy" ] || rm -f "$policy"
  rm -f "$log"
}
trap clean EXIT
if [ ! -e "$policy" ]; then
  # Debian's own way to say that packages must not start their daemons.
  made_policy=yes
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod 755 "$policy"
fi
apt() {
  DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 -o Dpkg::Options::=--force-confold "$@" >>"$log" 2>&1 </dev/null ||
    { tail -n 30 "$log" >&2; echo "debian: apt-get $1 failed (above: the end of what it said)." >&2; exit 1; }
}
apt update
apt install --yes --no-install-recommends "${missing[@]}"
