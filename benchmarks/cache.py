"""What the cache costs and saves, measured here: the first table of docs/benchmarks.md.

python benchmarks/cache.py                  # everything, some minutes; be alone on the machine
python benchmarks/cache.py gather verify    # these, the others as they were measured last
"""

import os

from measuring import command

CORES = os.cpu_count() or 1
main = command(
    "cache", "cache", {"gather": 1, "memory": 1, "writing": CORES, "size": 1, "verify": 1}
)

if __name__ == "__main__":
    main()
