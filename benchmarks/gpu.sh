#!/usr/bin/env bash
# What training on this machine's GPU takes: `bash benchmarks/gpu.sh`, in at most 8 minutes; gpu.py says more.
cd "$(dirname "$0")/.." || exit 1
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
exec timeout --signal=INT --kill-after=20 480 "${PYTHON:-python3}" benchmarks/gpu.py "$@"
