"""The teacher's answers on disk: plain HDF5 shards that are mapped into memory.

    data/cache/<split>/
      spec.json                       what decides the numbers, and the digest of index.h5
      index.h5                        sample ids and labels, row by row
      views/                          what the teacher was shown
        manifest.json                 the kind's spec, and every shard with its digests
        v000/p00000.h5
      logits/                         its raw logits
      task_logits/                    logits over the task's own classes, from the head
      features/<tap>/                 features at a tap, after pooling

One kind and one view a file, in parts of fixed row ranges; each kind's folder stands for itself, so
that any of them can be shared alone. This package knows numpy and h5py only.
"""
