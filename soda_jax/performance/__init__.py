"""How fast and how large: plans, the programs that compilers make, parameters, FLOPs, benchmarks."""
