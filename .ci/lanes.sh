# Shared by .ci/run and .ci/full: find a Python, run a lane, keep count. Lanes never run side by side: two cores.

SUMMARY=()
FAILED=0

# Path of Python X.Y: on PATH, or one of pyenv's; empty where there is none.
find_python() {
  local version=$1 path
  for path in "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$version".*/bin/python"$version" "$(command -v "python$version" || true)"; do
    if [ -x "$path" ] && "$path" -c 'import venv, ensurepip' 2>/dev/null; then
      echo "$path"
      return
    fi
  done
}

# lane NAME PYTHON-VERSION COMMAND...: the command runs with PYTHON set; a missing Python skips it, with the reason.
lane() {
  local name=$1 version=$2 begun=$SECONDS
  shift 2
  PYTHON=$(find_python "$version")
  if [ -z "$PYTHON" ]; then
    echo "SKIPPED lane $name: Python $version is not on this machine"
    SUMMARY+=("skipped  $name (no Python $version)")
    return
  fi
  echo "=== lane $name (Python $version)"
  export PYTHON
  if ("$@"); then
    SUMMARY+=("passed   $name in $((SECONDS - begun)) s")
  else
    SUMMARY+=("FAILED   $name after $((SECONDS - begun)) s")
    FAILED=1
  fi
}

finish() {
  echo "=== summary"
  printf '%s\n' "${SUMMARY[@]}"
  exit "$FAILED"
}

# A virtual environment at $1 with the project and the extras $2; more words go to pip. Uses PYTHON.
environment() {
  local folder=$1 extras=$2
  shift 2
  [ -x "$folder/bin/python" ] || "$PYTHON" -m venv "$folder" || return 1
  "$folder/bin/python" -m pip install --quiet --upgrade pip &&
    "$folder/bin/python" -m pip install --quiet "$@" -e ".[$extras]"
}

lint_and_tests() {
  set -e
  make setup TORCH=1
  make lint
  make test
}

# One export, build and bench through the command line, as a user would type them.
command_line() {
  set -e
  local optimize=$1/bin/optimize work
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  "$optimize" doctor
  "$optimize" zoo make resnet18 -o "$work/resnet18.keras"
  "$optimize" export "$work/resnet18.keras" -o "$work/resnet18.onnx"
  "$optimize" build "$work/resnet18.keras" --precision fp32,int8 --batch 1,8 --data synthetic --preprocess unit --max-drop 100
  "$optimize" bench "$work"/resnet18.optimized/*/ --baseline "$work/resnet18.keras" --batch 1,8 --quick --duration 200ms -o "$work/runs.json"
  "$optimize" report "$work/runs.json" -f md,csv,json -o "$work"
  test -s "$work/report.md"
}

jetpack5() {
  set -e
  environment .venv-jp5 tensorflow,openvino,dev -c constraints/jetpack5.txt
  .venv-jp5/bin/python -m pytest -m 'not slow'
  command_line .venv-jp5
}
