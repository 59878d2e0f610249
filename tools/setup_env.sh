#!/usr/bin/env bash
# Makes $VENV, the environment of `make demo`, `make test` and `make lint`.
# Called by make, which removes a half-made one first and passes the pins.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '[set-up, %d s] %s\n' "$SECONDS" "$*"; }
die() { printf 'set-up failed: %s\n' "$*" >&2; exit 1; }

[ -n "${VENV-}" ] && [ -n "${PYTHON-}" ] && [ -n "${TORCH-}" ] && [ -n "${MMCV-}" ] &&
    [ -n "${BUILD-}" ] && [ -n "${PACKAGES-}" ] ||
    die 'the pins are missing; run make, which passes them'
py=$VENV/bin/python
log=$VENV/mmcv-build.log
# pip ends normally on Ctrl-C; without this, that would pass for a damaged wheel.
trap 'exit 130' INT
# An inherited PYTHONPATH would let another environment's packages pass the checks.
unset PYTHONPATH

check_host() {
    local found include
    found=$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) ||
        found='nothing that runs'
    [ "$found" = 3.11 ] || die "wanted Python 3.11, found $found as '$PYTHON'." \
        "Install Python 3.11, or name yours: make PYTHON=/path/to/python3.11"
    "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null ||
        die "$PYTHON has no venv module. Install it (Debian: python3.11-venv)."
    include=$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("include"))')
    [ -f "$include/Python.h" ] ||
        die "no Python.h in $include. Install the headers (Debian: python3.11-dev)."
    command -v "${CXX:-c++}" >/dev/null ||
        die "wanted a C++ compiler, found no '${CXX:-c++}'." \
            "Install one (Debian: g++), or name yours: make CXX=/path/to/g++"
}

pip() { "$py" -m pip --disable-pip-version-check "$@"; }

# Reads the build's output; ninja starts a line with [done/all] for every file.
show_progress() {
    local line shown=-30 start=$SECONDS now end='\n' begin=''
    if [ -t 1 ]; then begin='\r' end='\033[K'; fi
    while IFS= read -r line; do
        [[ $line =~ \[([0-9]+)/([0-9]+)\] ]] || continue
        now=$((SECONDS - start))
        if [ ! -t 1 ] && ((now - shown < 30)); then continue; fi
        shown=$now
        printf "${begin}  compiled %d of %d files, %d s so far, about %d s to go${end}" \
            "${BASH_REMATCH[1]}" "${BASH_REMATCH[2]}" "$now" \
            $((now * (BASH_REMATCH[2] - BASH_REMATCH[1]) / BASH_REMATCH[1]))
    done
    if [ -t 1 ]; then printf '\n'; fi
}

build_mmcv() { # into the cache folder $1
    local wheel
    say "compiling $MMCV with its operators: about 10 minutes on 2 cores, once." \
        "The wheel is kept in $1"
    # -O1 against -O2, measured: as long to compile, RoIAlign within 5%, nms 2.9 times as fast.
    # CFLAGS replaces Python's own flags, hence -DNDEBUG -fwrapv. No build isolation: an
    # isolated build finds no torch and "succeeds" without any operator. No pip cache:
    # pip would file the wheel under its source only, and reuse it for another torch.
    CFLAGS='-O1 -g0 -DNDEBUG -fwrapv' MMCV_WITH_OPS=1 FORCE_CUDA=0 MAX_JOBS="$(nproc)" \
        pip wheel -v --no-cache-dir --no-deps --no-build-isolation \
        --no-binary "${MMCV%%==*}" -w "$VENV/wheel" "$MMCV" 2>&1 | tee "$log" | show_progress || {
        tail -n 30 "$log" >&2
        die "$MMCV did not compile (above: the end of $PWD/$log)"
    }
    wheel=$(echo "$VENV"/wheel/*mmcv-*.whl)
    "$py" -m zipfile -l "$wheel" | grep '^mmcv/_ext\..*so ' >/dev/null ||
        die "$MMCV was built without its operators; see $PWD/$log"
    # Copied beside its place, then renamed: the cache never shows half a wheel.
    mkdir -p "$1"
    cp "$wheel" "$1/part.$$"
    mv -f "$1/part.$$" "$1/${wheel##*/}"
}

try_mmcv() { # from the cache folder $1
    ls "$1"/*mmcv-*.whl >/dev/null 2>&1 &&
        pip install -qq --no-deps --no-cache-dir --force-reinstall "$1"/*mmcv-*.whl &&
        "$py" -c 'import mmcv._ext, mmcv.ops'
}

check_host
say "making $VENV with $("$PYTHON" --version) and $TORCH"
"$PYTHON" -m venv "$VENV"
pip install -qq -U 'pip>=25'
# shellcheck disable=SC2086  # BUILD and PACKAGES are lists
pip install -qq "$TORCH" $BUILD
say 'installing MMDetection, MMRazor and the rest'
# Before mmcv: a cached wheel is proved by an import, which needs these.
# shellcheck disable=SC2086
pip install -qq "$TORCH" $BUILD $PACKAGES

tag=$("$py" -c 'import sys, sysconfig as s, torch
print(f"torch-{torch.__version__}_{sys.implementation.cache_tag}_{s.get_platform()}")')
cache=${CTKD_MM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/ctkd_mm}/${MMCV/==/-}_$tag
if try_mmcv "$cache"; then
    say "$MMCV came from $cache"
else
    if [ -e "$cache" ]; then
        say "the wheel in $cache does not work: removing it"
        rm -rf "$cache"
    fi
    build_mmcv "$cache"
    try_mmcv "$cache" || die "$MMCV was built and does not import; see $PWD/$log"
fi

pip install -qq --no-deps --no-build-isolation -e .
pip check
"$py" -c 'import mmcv.ops, mmdet'
say "done. To use it: . $VENV/bin/activate"
