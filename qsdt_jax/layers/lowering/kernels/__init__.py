"""GPU kernels of this project, by Pallas: where XLA writes to memory what one kernel can keep to itself.

Each file has the kernel, a `can_use_...` that says for which shapes it is meant, and the name of the plain
version, which other platforms take and which it equals: to the bit where arithmetic is exact, else to the
order of summation. With `interpret` a kernel runs on any platform, step by step and slowly, as tests do.
"""
