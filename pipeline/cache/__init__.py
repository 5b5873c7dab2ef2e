"""The teacher's answers on disk: plain HDF5 shards that are mapped into memory.

    data/cache/<split>/
      spec.json                       what decides the numbers
      manifest.json                   every shard: digest, bytes, rows; written last
      index.h5                        sample ids and labels, row by row
      views/v000/p00000.h5            what the teacher was shown
      logits/v000/p00000.h5           its raw logits
      task_logits/v000/p00000.h5      logits over the task's own classes, from the head
      features/<tap>/v000/p00000.h5   features at a tap, after pooling

One kind and one view a file, in parts of fixed row ranges. This package knows numpy and h5py only.
"""
