"""What teaching costs a student, measured here: the second table of docs/benchmarks.md.

python benchmarks/train.py                  # everything, forty minutes; be alone on the machine
python benchmarks/train.py steps epochs     # these, the others as they were measured last
"""

import os

from measuring import command

CORES = os.cpu_count() or 1
main = command(
    "train", "train",
    {"steps": CORES, "host": 1, "epochs": CORES, "together": CORES, "freed": CORES,
     "fitting": CORES, "crowded": CORES},
)  # fmt: skip

if __name__ == "__main__":
    main()
