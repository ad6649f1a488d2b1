#!/usr/bin/env bash
# Executed by Open OnDemand's job. Everything about the session is in session.json, which `launcher plan` wrote.
set -euo pipefail
exec ./job.sh
