# Shared by .ci/run and .ci/full: find a Python, run a lane, keep count. Lanes never run side by side: two cores.
# Environments lie inside the clone: .venv (3.11), .venv-jp5 and .venv-X.Y.

SUMMARY=()
FAILED=0
# Every skipped test says why.
export PYTEST_ADDOPTS="${PYTEST_ADDOPTS:-} -rs"
export PIP_NO_COMPILE=1  # of the thousands of files of an environment few are ever imported

# usable PATH VERSION: it runs, is that version (a pyenv shim may be there for a Python that is not), and can make
# environments.
usable() {
  [ -x "$1" ] && [ "$("$1" -c 'import sys, venv, ensurepip; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)" = "$2" ]
}

# Path of Python X.Y: on PATH, or one of pyenv's; empty where there is none.
find_python() {
  local version=$1 root path
  root=${PYENV_ROOT:-$(pyenv root 2>/dev/null || echo "$HOME/.pyenv")}
  for path in "$(command -v "python$version" || true)" "$root"/versions/"$version".*/bin/python"$version"; do
    if usable "$path" "$version"; then
      echo "$path"
      return
    fi
  done
}

# lane NAME PYTHON-VERSION COMMAND...: the command runs with PYTHON set; a missing Python skips it, with the reason.
# Its temporary files lie in a folder of its own that goes with it: built models of five lanes are gigabytes.
# The subshell's status is read after it and not by `if` or `||`, because bash ignores `set -e` inside those.
lane() {
  local name=$1 version=$2 begun=$SECONDS status scratch
  shift 2
  PYTHON=$(find_python "$version")
  if [ -z "$PYTHON" ]; then
    echo "SKIPPED lane $name: Python $version is not on this machine"
    SUMMARY+=("skipped  $name: Python $version is not on this machine")
    return
  fi
  echo "=== lane $name (Python $version)"
  export PYTHON
  scratch=$(mktemp -d)
  set +e
  (
    set -euo pipefail
    export TMPDIR=$scratch
    "$@"
  ) </dev/null 2>&1
  status=$?
  set -e
  rm -rf "$scratch"
  if [ "$status" = 0 ]; then
    SUMMARY+=("passed   $name in $((SECONDS - begun)) s")
  else
    echo "=== lane $name FAILED with status $status"
    SUMMARY+=("FAILED   $name after $((SECONDS - begun)) s, status $status")
    FAILED=1
  fi
}

finish() {
  echo "=== summary after $SECONDS s"
  printf '%s\n' "${SUMMARY[@]}"
  exit "$FAILED"
}

# step WORDS: what comes next and when, so that a slow step shows in the log.
step() {
  echo "--- $SECONDS s: $*"
}

# programs COMMAND:PACKAGE...: Debian's, where this may install them; elsewhere the tests that run them skip.
programs() {
  local name missing=()
  for name in "$@"; do
    PATH=$PATH:/usr/sbin command -v "${name%%:*}" >/dev/null || missing+=("${name##*:}")
  done
  if [ ${#missing[@]} = 0 ]; then
    return
  fi
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "no ${missing[*]}, and it cannot be installed here"
    return
  fi
  timeout 60 apt-get update -qq || true
  for name in "${missing[@]}"; do
    DEBIAN_FRONTEND=noninteractive timeout 240 apt-get install -y -qq --no-install-recommends "$name" >/dev/null ||
      echo "$name could not be installed"
  done
}

lint_and_tests() {
  step make setup TORCH=1
  make setup TORCH=1
  step chromium and stress-ng
  programs chromium stress-ng  # the HTML report in a real browser; background load
  step make lint
  make lint
  step make test
  make test
}

# One build and bench through the command line, as a user would type them, in a folder of their own.
command_line() {
  local optimize
  optimize=$PWD/$1/bin/optimize
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  cd "$work"
  "$optimize" doctor
  "$optimize" zoo make resnet18 -o resnet18.keras
  "$optimize" build resnet18.keras --precision int8 --batch 1,8 --data synthetic --preprocess unit --max-drop 100
  "$optimize" bench resnet18.optimized/*/ --baseline resnet18.keras --batch 1,8 --quick -o runs.json
  "$optimize" report runs.json -f md,csv,json -o .
  test -s report.md
}

# tensorrt PYTHON VERSION [MARKS]: the TensorRT code over stand-ins, against one version's surface, in a small environment.
tensorrt() {
  local options=("VENV=.venv-trt-$1" EXTRAS=dev TRT=1)
  step make setup "${options[@]}"
  make setup "${options[@]}"
  step TensorRT "$2"
  make test "${options[@]}" PYTEST_OPTIONS="-m 'tensorrt and not slow ${3:-}' --surface $2"
}

# jetpack5 MARKS: which tests.
jetpack5() {
  local options=(VENV=.venv-jp5 EXTRAS=tensorflow,openvino,report,dev TRT=1 PIP_OPTIONS='-c constraints/jetpack5.txt')
  step make setup "${options[@]}"
  make setup "${options[@]}"
  step make test "${options[@]}" with TensorRT 8.5.2
  make test "${options[@]}" PYTEST_OPTIONS="-m '$1' --surface 8.5.2"
}

# The server beside that Python's TensorFlow, with MLServer 1.4.
jetpack5_server() {
  local options=(VENV=.venv-jp5 EXTRAS=tensorflow,openvino,serve,triton,dev)
  options+=(PIP_OPTIONS='-c constraints/jetpack5.txt -c constraints/jetpack5-serve.txt')
  rm -f .venv-jp5/.ready  # made before without the server
  make setup "${options[@]}"
  make test "${options[@]}" PYTEST_OPTIONS=tests/optimize/serving
}

# The README's test command on another Python.
every_test() {
  step make test "VENV=.venv-$1"
  make test "VENV=.venv-$1"
}

# Where TensorFlow is not promised: everything imports, and every test that needs none passes.
without_tensorflow() {
  local options=("VENV=.venv-$1" EXTRAS=openvino,report,dev)
  make setup "${options[@]}"
  step import
  ".venv-$1/bin/python" -c 'import bench, calib, engines, optimize.api, optimize.cli.app'
  step make test "${options[@]}"
  make test "${options[@]}"
}

slow_tests() {
  local options=(TORCH=1 TRT=1 EXTRAS=tensorflow,openvino,report,servers,fleet,serve,triton,dev)
  rm -f .venv/.ready  # made by the first lane without the servers
  make setup "${options[@]}"
  step OpenSSH, a registry and strace
  programs sshd:openssh-server docker-registry skopeo strace
  step make test, the slow ones
  make test "${options[@]}" PYTEST_OPTIONS='-m slow'
}
