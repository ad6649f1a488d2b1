# shellcheck shell=bash
# Sourced by Open OnDemand's job before script.sh. No `set -e` here: the shell is OOD's.
# A requeued job finds the connection.yml of its first life; the card would show a dead port.
rm -f connection.yml connection.json connection.words ended.html
# Staging gave this directory the mode of template/ (0755); the key will be in it.
chmod 700 .
umask 077
