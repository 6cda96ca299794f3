"""Everything that the programs share: the paper's method, training, run folders, barriers, results and benchmarks."""
