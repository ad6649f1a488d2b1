#!/usr/bin/env bash
# Everything that can be said about the code without running the product, then the unit tests. All checks run; any failure fails.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
bin=${VENV:-.venv}/bin
failed=()

check() { # check NAME COMMAND...
  local name=$1 started=$SECONDS
  shift
  if "$@"; then
    printf 'check: %-12s ok    %3d s\n' "$name" $((SECONDS - started))
  else
    printf 'check: %-12s FAILED\n' "$name"
    failed+=("$name")
  fi
}

files() { # files PATTERN...: of this checkout, tracked or about to be, that still exist
  git ls-files --cached --others --exclude-standard -- "$@" | while IFS= read -r file; do
    if [ -f "$file" ]; then printf '%s\n' "$file"; fi
  done
}

# Shell scripts by name and by first line; the sample app of tests/app is written as badly as other people's apps are.
mapfile -t shell < <({ files '*.sh'; files .ci scripts template tests | xargs -r awk 'FNR == 1 && /^#!.*[\/ ](ba)?sh( |$)/ { print FILENAME }'; } |
  sort -u | grep -v '^tests/app/sample/')
mapfile -t yaml < <(files '*.yml' '*.yaml')
mapfile -t python < <(for name in launcher tests scripts benchmarks; do if [ -d "$name" ]; then echo "$name"; fi; done)

check ruff "$bin/ruff" check --quiet .
check format "$bin/ruff" format --check --quiet .
check mypy "$bin/mypy" --no-error-summary "${python[@]}"
if command -v shellcheck >/dev/null; then
  check shellcheck shellcheck "${shell[@]}"
else
  echo 'check: shellcheck is not installed: SKIPPED (Debian: apt-get install shellcheck)'
fi
check yamllint "$bin/yamllint" --strict "${yaml[@]}"
check codespell "$bin/codespell" -q 3
check unit "$bin/python" -m pytest -q -n 2 --dist loadfile tests/unit

if [ ${#failed[@]} -gt 0 ]; then
  echo "check: FAILED: ${failed[*]}" >&2
  exit 1
fi
