#!/bin/sh
# Finds Python 3.11, or installs it as root on Debian. Then setup.py does the rest.
set -u
cd "$(dirname "$0")/.." || exit 1

usable() { "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; }

find_python() {
    for python in ${PYTHON:-} python3.11 /usr/bin/python3.11 /usr/local/bin/python3.11 /opt/homebrew/bin/python3.11 python3; do
        if usable "$python"; then
            echo "$python"
            return
        fi
    done
    return 1
}

# The Python of .venv comes first: it is quick to find, and the user's shell does not affect it.
python=.venv/bin/python
usable "$python" || python=$(find_python) || {
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "Installing Python 3.11 (apt-get)"
        { apt-get update && apt-get install -y --no-install-recommends python3.11 python3.11-venv; } >/dev/null 2>&1 </dev/null
    fi
    python=$(find_python)
} || {
    echo "setup: Python 3.11 with venv is needed: install it (Debian 12: python3.11-venv, macOS: brew install python@3.11)," \
        "or name it: make setup PYTHON=/path/to/python3.11" >&2
    exit 1
}
exec "$python" scripts/setup.py "$@"
