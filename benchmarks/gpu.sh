#!/usr/bin/env bash
# All that needs a GPU, in one command and within ten minutes: build the kernels, test them, measure.
#
#     benchmarks/gpu.sh              # options go to benchmarks/gpu.py
#     PYTHON=python3.12 DEFECTGEN_COMMIT=1a2b3c4 benchmarks/gpu.sh
#
# Needs a checkout, torch >= 2.11 with CUDA, nvcc of the same major version, a C++ compiler, ninja and
# pytest; installs nothing. Where git is missing, DEFECTGEN_COMMIT names the commit in the results.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-python3}
export PYTHONPATH=. PYTHONUNBUFFERED=1
export DEFECTGEN_CACHE=${DEFECTGEN_CACHE:-$PWD/.cache}

echo "== build"
time "$python" -c 'from defectgen.ops import _build; print(_build.build("cuda"))' || exit 1

failed=0
echo "== tests"
tests=(tests/ops/test_cuda.py tests/ops/test_cuda_streams.py tests/ops/test_*_fused.py)
tests+=(tests/ops/test_penalties.py tests/ops/test_opcheck.py tests/ops/test_tracing.py)
# Convolutions in float32, not in the shorter format of tensor cores: the tests know what to expect.
NVIDIA_TF32_OVERRIDE=0 timeout 160 "$python" -m pytest -q --device cuda "${tests[@]}" || failed=1

echo "== benchmark"
timeout -s INT 370 "$python" benchmarks/gpu.py "$@" || failed=1
exit $failed
