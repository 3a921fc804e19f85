# python3.11 -m venv akita && akita/bin/pip install akita-fhe==0.2.0
"""akita-fhe's search of plaintext rows by an encrypted query, with its own plan and parameters.

    akita/bin/python akita_search.py GIVEN.npz THREADS

GIVEN: rows (n, d) and query (d,), float32. Its contexts are made before, once for all queries;
its `run_matvec` encrypts, multiplies and decrypts, and is measured whole. Prints one JSON object.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
import time
from pathlib import Path

import numpy as np
from akita import PipelineSpec, plan, runtime


def main() -> None:
    given, threads = sys.argv[1], int(sys.argv[2])
    with np.load(given) as arrays:
        rows, query = arrays["rows"], arrays["query"]
    made = plan(PipelineSpec("matvec_ranking", dim=rows.shape[1], n_items=len(rows)))
    contexts = runtime._contexts(made, threads)
    runtime._contexts = lambda *_: contexts
    cpu, clock = time.process_time(), time.perf_counter()
    found = runtime.run_matvec(made, query.astype(float), rows.astype(float), threads)
    cpu, clock = time.process_time() - cpu, time.perf_counter() - clock
    best, exact = (set(np.argsort(-s)[:10].tolist()) for s in (found["scores"], rows @ query))
    took, status = found["measured"], Path("/proc/self/status").read_text()
    print(
        json.dumps(
            {
                "peer": "akita-fhe",
                "version": importlib.metadata.version("akita-fhe"),
                "cpu_seconds": cpu,
                "seconds": clock,
                "score_seconds": took["compute_s"],
                "query_bytes": round(took["upload_kb"] * 1024),
                "response_bytes": round(took["download_kb"] * 1024),
                "key_bytes": len(contexts[1].serialize(save_secret_key=False)),
                "peak_bytes": int(status.split("VmHWM:")[1].split()[0]) << 10,
                "overlap": len(best & exact) / 10,
            }
        )
    )


if __name__ == "__main__":
    main()
