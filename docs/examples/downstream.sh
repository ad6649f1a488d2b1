#!/bin/bash
#SBATCH --job-name=downstream
#SBATCH --time=01:00:00
#SBATCH --cpus-per-task=1
#
# A job that uses a session: it starts when the session's job has started, waits until the model answers, asks it, and
# stops it. The answer is in the job's output.
#
#   read -r session job < <(launcher launch tiny-chat --json |
#     python3 -c 'import json, sys; it = json.load(sys.stdin); print(it["id"], it["job_id"])')
#   sbatch --dependency="after:$job" --kill-on-invalid-dep=yes downstream.sh "$session"
set -euo pipefail
session=$1
launcher=${LAUNCHER:-launcher}
trap '"$launcher" stop "$session" >&2' EXIT # whatever happens, its GPUs are given back

"$launcher" wait "$session" --timeout 1800 >&2

read -r base_url key_file model < <("$launcher" status "$session" --json |
  python3 -c 'import json, sys; it = json.load(sys.stdin); print(it["base_url"], it["key_file"], it["served_name"])')

# The key comes from a file and through a pipe: everybody on the node can read a command line.
curl --silent --show-error --fail --noproxy '*' \
  --header @<(printf 'Authorization: Bearer %s\n' "$(<"$key_file")") \
  --header 'Content-Type: application/json' \
  --data "{\"model\": \"$model\", \"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}]}" \
  "$base_url/chat/completions"
