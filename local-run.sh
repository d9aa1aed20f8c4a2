#!/usr/bin/env bash
# Set up and run the function on this machine, as functions-framework runs it: one command.
#
#   ./local-run.sh            serve on $PORT (8080), journal in $AUDIT_JOURNAL_DIR (./journal)
#   ./local-run.sh --demo     …and send a handful of real reviews through it, showing each record, an object's past, a report
#   ./local-run.sh --demo --once     …then stop
set -euo pipefail
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
cd "$ROOT"

demo= once=
for argument in "$@"; do
    case "$argument" in
        --demo) demo=1 ;;
        --once) once=1 ;;
        -h | --help) sed -n '2,6s/^# \{0,1\}//p' "$0"; exit 0 ;;
        *) echo "local-run.sh: unknown option '$argument' (try --help)" >&2; exit 2 ;;
    esac
done

. tests/venv.sh
ensure_venv requirements.txt

export PORT="${PORT:-8080}" AUDIT_JOURNAL_DIR="${AUDIT_JOURNAL_DIR:-$ROOT/journal}"
# Out of a clone nobody scrapes metrics, and a second copy must not fail on their port.
export AUDIT_METRICS_PORT="${AUDIT_METRICS_PORT:-55555}"
python - "$PORT" <<'PYTHON' || exit 1
import socket, sys
try:
    socket.create_server(("", int(sys.argv[1]))).close()
except OSError as error:
    sys.exit(f"Port {sys.argv[1]} cannot be used ({error.strerror}). Choose another: PORT=8081 ./local-run.sh")
except (ValueError, OverflowError):
    sys.exit(f"PORT={sys.argv[1]}: a port is a number from 1 to 65535, as in PORT=8081 ./local-run.sh")
PYTHON

cat >&2 <<TEXT

  Reviews:  http://127.0.0.1:$PORT/log-request
  Journal:  $AUDIT_JOURNAL_DIR/*/audit-*.ndjson  (appears with the first record)
  Metrics:  http://127.0.0.1:$AUDIT_METRICS_PORT/metrics  (from the first request on)
  Try it:   curl -H 'Content-Type: application/json' --data-binary @$ROOT/examples/demo/review.json \\
                 'http://127.0.0.1:$PORT/log-request?timeout=10s'

TEXT

serve=(functions-framework --target=handle --source=handler.py --port "$PORT")
if [ -z "$demo" ]; then
    exec "${serve[@]}"
fi

"${serve[@]}" &
server=$!
trap 'kill "$server" 2>/dev/null; wait "$server" 2>/dev/null || true' EXIT
trap 'exit 130' INT TERM
python examples/demo/demo.py "http://127.0.0.1:$PORT" "$AUDIT_JOURNAL_DIR"
printf '\n$ python -m function history deploy/web -n shop    # more of these: docs/investigating.md\n'
python -m function history deploy/web -n shop
report="$(dirname "$AUDIT_JOURNAL_DIR")/audit-report.html"
python -m function report --since 1h -o "$report"
printf '\nWhat happened in the last hour, for a browser: %s\n' "$report"
if [ -z "$once" ]; then
    echo "The function goes on running; stop it with Ctrl-C." >&2
    wait "$server"
fi
