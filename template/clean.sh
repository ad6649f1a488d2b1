# shellcheck shell=bash
# Sourced by Open OnDemand's job at its end. The session has cleaned up after itself; this is for the day it could not.
rm -f connection.yml connection.json connection.words
