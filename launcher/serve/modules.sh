#!/bin/bash
# Load environment modules, then become the engine: modules.sh SETUP_FILE COUNT MODULE... PROGRAM ARGUMENT...
# A job's shell is no login shell, so `module` may not exist until the site's own file was sourced.
setup=$1
count=$2
shift 2
for file in "$setup" /etc/profile.d/modules.sh /etc/profile.d/lmod.sh /etc/profile.d/z00_lmod.sh; do
  type module >/dev/null 2>&1 && break
  # shellcheck source=/dev/null
  [ -r "$file" ] && . "$file"
done
if ! type module >/dev/null 2>&1; then
  echo "launcher: the command 'module' does not exist on $(hostname)" >&2
  exit 78
fi
for ((; count > 0; count--)); do
  if ! module load "$1"; then
    echo "launcher: the module $1 could not be loaded" >&2
    exit 78
  fi
  shift
done
exec "$@"
