"What the benchmarks of fine-tuning share: pictures in memory, one fine-tuning, many of them by several processes"
