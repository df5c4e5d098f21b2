#!/usr/bin/env bash
# What training on this machine's GPU takes: `bash benchmarks/gpu.sh`, in at most 8 minutes; gpu.py says more.
cd "$(dirname "$0")/.." || exit 1
PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" exec "${PYTHON:-python3}" benchmarks/gpu.py "$@"
