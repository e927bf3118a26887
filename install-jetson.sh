#!/usr/bin/env bash
# Installs optimize on a Jetson without Docker: ./install-jetson.sh [--dry-run] [--no-tensorflow] [--venv DIR]
#
# A virtual environment of the system's Python, which alone sees JetPack's TensorRT, with the versions that
# constraints/ has for this JetPack. JetPack's tensorrt and NVIDIA's tensorflow stay as they are; nothing needs root.
# It can be run again: what is there stays, and a run that stopped is taken up.
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
BOARD=${OPTIMIZE_BOARD_ROOT:-} # stands for / in the tests
VENV=$HERE/.venv
DRY=
TENSORFLOW=yes
NVIDIA=https://developer.download.nvidia.com/compute/redist/jp
PIP=25.0.1 # the last one on Python 3.8

usage() {
  sed -n '2,6s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
}

# fail STATUS WHY COMMAND: statuses as those of optimize itself, 4 for what this machine lacks.
fail() {
  printf 'error: %s\n' "$2" >&2
  if [ -n "${3:-}" ]; then printf '  %s\n' "$3" >&2; fi
  exit "$1"
}

step() {
  printf '==> %s\n' "$*"
}

# Show a command, and run it unless this is a dry run.
run() {
  printf '  +'
  printf ' %q' "$@"
  printf '\n'
  [ -n "$DRY" ] || "$@" || fail 1 "that command failed; mend what it says and run this again, which goes on there"
}

# Version of a package that a Python sees; empty where it sees none.
version_in() {
  "$1" -c 'import sys
from importlib import metadata
try:
    print(metadata.version(sys.argv[1]))
except metadata.PackageNotFoundError:
    pass' "$2"
}

pinned() {
  sed -n "s/^$1==\([^ ;#]*\).*/\1/p" "$CONSTRAINTS"
}

look_at_the_board() {
  local release=$BOARD/etc/nv_tegra_release l4t=
  if [ -r "$release" ]; then
    l4t=$(sed -n 's/^# R\([0-9]*\) (release), REVISION: \([0-9.]*\).*/\1.\2/p' "$release" | head -n 1)
  fi
  if [ -z "$l4t" ]; then # upgraded boards may lack the file
    l4t=$(dpkg-query -W -f='${Version}' nvidia-l4t-core 2>/dev/null | sed 's/-.*//') || true
  fi
  [ -n "$l4t" ] || fail 4 "this is no Jetson: neither /etc/nv_tegra_release nor the package nvidia-l4t-core" "make setup"
  local minor=${l4t#*.}
  WHEELS=
  case $l4t in
    35.*)
      JETPACK=jetpack5 WANTED=3.8
      if [ "${minor%%.*}" -ge 4 ]; then WHEELS=v512; fi
      ;;
    36.*)
      JETPACK=jetpack6 WANTED=3.10
      if [ "${minor%%.*}" -ge 4 ]; then WHEELS=v61; fi
      ;;
    38.* | 39.*) JETPACK=jetpack7 WANTED=3.12 ;;
    3[0-4].*) fail 4 "L4T $l4t is JetPack 4 or an early 5, too old: build with the board's own trtexec, docs/jetson.md" ;;
    *) fail 4 "L4T $l4t is not known here: constraints/ has JetPack 5, 6 and 7" ;;
  esac
  CONSTRAINTS=$HERE/constraints/$JETPACK.txt
  step "L4T $l4t: constraints/$JETPACK.txt, Python $WANTED"
}

look_at_the_software() {
  SYSTEM=$BOARD/usr/bin/python3
  [ -x "$SYSTEM" ] || fail 4 "no /usr/bin/python3" "sudo apt install python3 python3-venv python3-dev"
  local version
  version=$("$SYSTEM" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  [ "$version" = "$WANTED" ] ||
    fail 4 "/usr/bin/python3 is $version; JetPack's TensorRT is for $WANTED" "sudo apt install --reinstall python3-minimal"
  "$SYSTEM" -c 'import ensurepip, venv' 2>/dev/null ||
    fail 4 "/usr/bin/python3 cannot make virtual environments" "sudo apt install python3-venv"
  "$SYSTEM" -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("tensorrt") is None)' ||
    fail 4 "/usr/bin/python3 has no tensorrt, which JetPack brings" "sudo apt install python3-libnvinfer"
  CUDA=$BOARD/usr/local/cuda
  [ -x "$CUDA/bin/nvcc" ] || fail 4 "no nvcc in /usr/local/cuda/bin, with which pycuda is built" \
    "sudo apt install nvidia-jetpack"
  "$SYSTEM" -c 'import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")))' ||
    fail 4 "no Python.h, with which pycuda is built" "sudo apt install python3-dev"
  command -v c++ >/dev/null || fail 4 "no C++ compiler, with which pycuda is built" "sudo apt install build-essential"
}

make_environment() {
  local python=$VENV/bin/python made
  if [ -x "$python" ]; then
    made=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])') || made=broken
    [ "$made" = "$WANTED" ] || fail 4 "$VENV is of Python $made, not $WANTED" "rm -r $VENV"
  fi
  if [ -x "$python" ] && grep -qi '^include-system-site-packages *= *true' "$VENV/pyvenv.cfg" 2>/dev/null; then
    step "the environment $VENV is there and sees JetPack's packages"
  else
    step "the environment $VENV, which sees JetPack's packages" # over one that does not: what is in it stays
    run "$SYSTEM" -m venv --system-site-packages "$VENV"
  fi
}

# The pins, with what the board already has of NVIDIA's in their place: so that pip can only leave it or stop.
write_constraints() {
  local python=$SYSTEM
  if [ -x "$VENV/bin/python" ]; then python=$VENV/bin/python; fi
  HAVE_TENSORFLOW=$(version_in "$python" tensorflow)
  HAVE_TENSORRT=$(version_in "$python" tensorrt)
  HELD=$VENV/constraints.txt
  step "the versions, in $HELD"
  if [ -n "$HAVE_TENSORRT" ]; then echo "  tensorrt $HAVE_TENSORRT stays"; fi
  if [ -n "$HAVE_TENSORFLOW" ]; then echo "  tensorflow $HAVE_TENSORFLOW stays"; fi
  if [ -n "$DRY" ]; then return; fi
  {
    grep -v -E '^(tensorrt|tensorflow|tensorflow-cpu)==' "$CONSTRAINTS"
    echo "tensorflow==${HAVE_TENSORFLOW:-$(pinned tensorflow)}"
    if [ -n "$HAVE_TENSORRT" ]; then echo "tensorrt==$HAVE_TENSORRT"; fi
  } | sed '/==$/d' >"$HELD.new"
  mv "$HELD.new" "$HELD"
}

pip_install() {
  run "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check -c "$HELD" "$@"
}

install_packages() {
  step "pip, and what builds pycuda"
  run "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check "pip==$PIP"
  pip_install setuptools wheel numpy

  step "pycuda $(pinned pycuda), built here with nvcc"
  # Without isolation: a build environment of its own would take a newer setuptools and another numpy.
  PATH=$CUDA/bin:$PATH CUDA_ROOT=$CUDA pip_install --no-build-isolation pycuda

  local extras=openvino,report
  if [ -n "$HAVE_TENSORFLOW" ]; then
    step "tensorflow $HAVE_TENSORFLOW is there and stays"
    extras=$extras,tensorflow
    case $JETPACK-$HAVE_TENSORFLOW in
      jetpack7-* | *+nv*) ;;
      *) echo "  it is not NVIDIA's build and may lack CUDA: optimize doctor says more" ;;
    esac
  elif [ -z "$TENSORFLOW" ]; then
    step "no tensorflow, as asked: Keras models are not read"
  elif [ -n "$WHEELS" ]; then
    step "tensorflow $(pinned tensorflow), NVIDIA's build"
    pip_install --extra-index-url "$NVIDIA/$WHEELS" "tensorflow==$(pinned tensorflow)"
    extras=$extras,tensorflow
  elif [ "$JETPACK" = jetpack7 ]; then
    step "tensorflow $(pinned tensorflow) without CUDA, for exports: NVIDIA has none for JetPack 7"
    extras=$extras,tensorflow
  else
    step "no tensorflow: constraints/$JETPACK.txt is for a newer release; optimize doctor has the command for this one"
  fi

  step "optimize, with $extras"
  pip_install -e "${HERE}[$extras]"
}

# What must not have happened is looked at, too.
check() {
  if [ -n "$DRY" ]; then return; fi
  local origin
  origin=$("$VENV/bin/python" -c 'import importlib.util; print(importlib.util.find_spec("tensorrt").origin)')
  case $origin in
    "$VENV"/*) fail 1 "pip put a tensorrt into $VENV, which hides JetPack's" "$VENV/bin/pip uninstall tensorrt" ;;
  esac
  if [ -n "$HAVE_TENSORFLOW" ] && [ "$(version_in "$VENV/bin/python" tensorflow)" != "$HAVE_TENSORFLOW" ]; then
    fail 1 "tensorflow is no longer $HAVE_TENSORFLOW" "$VENV/bin/pip uninstall tensorflow"
  fi
}

while [ $# -gt 0 ]; do
  case $1 in
    --dry-run) DRY=yes ;;
    --no-tensorflow) TENSORFLOW= ;;
    --venv)
      [ $# -ge 2 ] || fail 2 "--venv wants a folder"
      case $2 in /*) VENV=$2 ;; *) VENV=$PWD/$2 ;; esac
      shift
      ;;
    -h | --help)
      usage
      exit 0
      ;;
    *) fail 2 "unknown option $1" "$0 --help" ;;
  esac
  shift
done

look_at_the_board
look_at_the_software
make_environment
write_constraints
install_packages
check
step "${DRY:+dry run, nothing was changed; }go on with"
echo "  $VENV/bin/optimize doctor"
