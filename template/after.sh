# shellcheck shell=bash disable=SC2034,SC2154
# Sourced by Open OnDemand's job after script.sh was started, with its PID in SCRIPT_PID.
# connection.words appears when a real request was answered; only then may the card say Running.
while [ ! -s connection.words ]; do
  if ! kill -0 "$SCRIPT_PID" 2>/dev/null; then
    clean_up 1
  fi
  sleep 1
done
# The words for connection.yml, all of them plain: OOD writes them with an unquoted echo.
read -r host port password session_id model ends_at login_host engine <connection.words
