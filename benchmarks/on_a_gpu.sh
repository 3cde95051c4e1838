#!/usr/bin/env bash
# All that only a GPU can show, in about eight minutes: the tests first, then the tables.
#
#     bash benchmarks/on_a_gpu.sh [FOLDER]
#
# Tables go to FOLDER, and to benchmarks/ without one. NumPyro takes part where it is installed.
#
# Expected, from one H100 (torch 2.11) before the update of the parameters and the choice of the
# images were compiled, and while only our step had the choice of the images:
#   batch, precision   ours, ms   stock Pyro   by hand   NumPyro   products   (ratios to ours)
#   128 float32        0.163      48.8         8.4       0.71      0.52
#   1024 float32       0.313      29.1         4.6       0.79      0.62
#   128 bfloat16       0.153      46.8         8.5       0.63      0.34
# From one H200 at 128 in float32, in microseconds: 126 of a step, 119 with both compiled; 106 of
# NumPyro, without the choice; 83 of the products.
# Wanted: NumPyro 1.15 or more in float32 and 1.3 in bfloat16, products 0.75 at 128 and 0.85 at 1024
# in float32, and log p(x) at half the rate of its products or more.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-benchmarks}
python -m pytest -q -m gpu tests/test_gpu.py
python benchmarks/engines.py --device cuda --rounds 3 --seconds 0.3 \
    --batch_sizes '[128, 1024, 4096]' --precisions '[float32, bfloat16]' \
    --table "$folder/engines-cuda.md"
python benchmarks/evaluation.py --device cuda --images 10000 --rounds 3 \
    --table "$folder/evaluation-cuda.md"
