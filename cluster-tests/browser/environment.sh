# What `run-tests` and `screenshots` begin with: the arguments, Chromium, and Python in an environment of its
# own. Sourced by both; sets `here`, `roster`, `work` and `python`, and ends with the script whatever it started. Exit code 77: there is no Chromium to test with.

me=$(basename "$0")
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
roster=${1:-}
[[ -n $roster ]] || { echo "$me: name the program to test: $me target/debug/roster" >&2; exit 2; }
[[ -x $roster ]] || { echo "$me: $roster is no program; build it with: cargo build" >&2; exit 2; }
roster=$(cd "$(dirname "$roster")" && pwd)/$(basename "$roster")

have_chromium() {
    command -v chromium >/dev/null && command -v chromedriver >/dev/null
}

if ! have_chromium; then
    if [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null; then
        {
            apt-get update -qq
            DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium chromium-driver
        } >/dev/null || echo "$me: Chromium could not be installed" >&2
    fi
    have_chromium || {
        echo "$me: chromium and chromedriver are not on the PATH: install them (Debian: apt-get install chromium chromium-driver)" >&2
        exit 77
    }
fi

work=$(mktemp -d)
child=
finish() {
    # Python ends the cluster and the browser when it is told to go.
    if [[ -n $child ]]; then
        kill "$child" 2>/dev/null || true
        wait "$child" 2>/dev/null || true
    fi
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM

"${PYTHON:-python3}" -m venv "$work/venv"
python=$work/venv/bin/python
"$python" -m pip install --quiet --disable-pip-version-check -r "$here/requirements.txt"

# Runs Python beside the shell, so that the shell hears of signals meanwhile.
run_python() {
    local status=0
    PYTHONDONTWRITEBYTECODE=1 ROSTER=$roster TMPDIR=$work "$python" "$@" &
    child=$!
    wait "$child" || status=$?
    child=
    return "$status"
}
