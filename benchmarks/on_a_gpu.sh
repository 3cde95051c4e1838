#!/usr/bin/env bash
# All that only a GPU can show: the tests first, then the tables; eight minutes, as estimated.
#
#     bash benchmarks/on_a_gpu.sh [FOLDER]
#
# Tables go to FOLDER, and to benchmarks/ without one. NumPyro takes part where it is installed.
# Earlier measurements: on_a_gpu.md.
set -euo pipefail
folder=$(realpath "${1:-$(dirname "$0")}")
cd "$(dirname "$0")/.."
python -m pytest -q -m gpu tests/test_gpu.py
python benchmarks/engines.py --device cuda --rounds 3 --seconds 0.3 \
    --batch_sizes '[128, 1024, 4096]' --precisions '[float32, bfloat16]' \
    --table "$folder/engines-cuda.md"
python benchmarks/evaluation.py --device cuda --images 10000 --rounds 3 \
    --table "$folder/evaluation-cuda.md"
