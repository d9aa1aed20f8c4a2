# Sourced by local-run.sh, tests/run and tests/e2e/run: a virtual environment with locked packages.
#
#   ensure_venv FILE...    puts the packages of each requirements FILE into $VENV and activates it;
#                          quick when nothing changed since the last time.

VENV="${VENV:-$ROOT/.venv}"

ensure_venv() {
    local python="${PYTHON:-python3}" file stamp
    if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        echo "Python 3.11 or later is needed; '$python' is not. Install it, or name one: PYTHON=python3.12 $0" >&2
        exit 1
    fi
    if [ ! -x "$VENV/bin/python" ]; then
        echo "Making a virtual environment in ${VENV#"$PWD"/} (once)…" >&2
        "$python" -m venv "$VENV" || {
            echo "Could not. On Debian and Ubuntu: apt-get install python3-venv" >&2
            exit 1
        }
    fi
    for file in "$@"; do
        stamp="$VENV/.installed-$(echo "${file#"$ROOT"/}" | tr / -)"
        if ! cmp -s "$file" "$stamp"; then
            echo "Installing the packages of ${file#"$ROOT"/}…" >&2
            "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r "$file"
            cp "$file" "$stamp"
        fi
    done
    export PATH="$VENV/bin:$PATH" VIRTUAL_ENV="$VENV"
}
