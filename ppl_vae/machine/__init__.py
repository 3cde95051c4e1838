"""The machine: devices, files, interrupts, progress, memory, processes, randomness."""
