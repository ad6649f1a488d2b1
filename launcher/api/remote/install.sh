#!/bin/sh
# Look at a cluster's login node, or install the launcher there; given to `sh -s` over ssh by launcher.api.remote.setup.
#
#   look PROGRAM PYTHON FOLDER    tell what is there, one NAME=VALUE a line
#   install FOLDER RELEASE PYTHON EXTRAS WHEEL    make FOLDER/releases/RELEASE, and FOLDER/current lead to it
#
# Plain POSIX shell: nothing is known of that host yet. Every line that counts begins with "::".
set -u
umask 022

say() { printf '::%s=%s\n' "$1" "$2"; }
home_of() { case $1 in "~"/*) printf '%s/%s\n' "$HOME" "${1#??}" ;; *) printf '%s\n' "$1" ;; esac; }
good_python() { "$1" -I -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; }

look() {
  say home "$HOME"
  say user "$(id -un)"
  for name in $2 python3.13 python3.12 python3.11 python3 /usr/bin/python3; do
    found=$(command -v "$(home_of "$name")" 2>/dev/null) || continue
    if good_python "$found"; then
      say python "$found"
      break
    fi
    say old_python "$found"
  done
  for name in sbatch squeue sinfo; do
    found=$(command -v "$name" 2>/dev/null) && say "$name" "$found"
  done
  folder=$(home_of "$3")
  [ ! -e "$folder" ] || [ -O "$folder" ] || say foreign "$folder"
  for name in $1 launcher; do
    found=$(home_of "$name")
    found=$(command -v "$found" 2>/dev/null) && say launcher "$found"
  done
  say end ok
}

install() {
  folder=$(home_of "$1") release=$folder/releases/$2 python=$3 extras=$4 wheel=$(home_of "$5")
  if [ -e "$release/.complete" ]; then
    say there "$release"
  else
    # What an interrupted install left is not to be trusted; the release in use is another folder.
    rm -rf "$release"
    mkdir -p "$release" 2>/dev/null || { say failed "cannot write to $folder"; return 1; }
    say step "making $release"
    "$python" -m venv "$release" >"$release/install.log" 2>&1 || {
      say failed "$python -m venv: $(tail -n 3 "$release/install.log" | tr '\n' ' ')"
      rm -rf "$release"
      return 1
    }
    say step "installing with pip"
    "$release/bin/python" -m pip install --disable-pip-version-check --no-input --quiet \
      "$wheel${extras:+[$extras]}" >"$release/install.log" 2>&1 || {
      say failed "pip: $(grep -v '^ *$' "$release/install.log" | tail -n 2 | tr '\n' ' ')"
      rm -rf "$release"
      return 1
    }
    "$release/bin/launcher" --version >/dev/null 2>&1 || { say failed "the installed launcher does not run"; return 1; }
    touch "$release/.complete"
  fi
  # `mv` would move the link into the folder that the former `current` leads to.
  if ! { ln -sfn "releases/$2" "$folder/current.new" &&
    "$python" -c 'import os, sys; os.replace(*sys.argv[1:])' "$folder/current.new" "$folder/current"; }; then
    say failed "cannot write to $folder"
    return 1
  fi
  rm -f "$wheel"
  for former in "$folder"/releases/*/; do
    [ "${former%/}" = "$release" ] || say former "${former%/}"
  done
  say end ok
}

"$@"
