"""How is a plan carried out? The same crop, colours and erasing as compiled code for a CPU (numba), as CUDA kernels
(Triton) and as tensor operations for any device (torch).

The three executors of an operation stand side by side (`rand_augment_numba.py`, `rand_augment_torch.py`,
`rand_augment_triton.py`), and tests hold them to the same pixels. On a GPU Triton's run, torch's are the reference and
run on every other device. The numba kernels are called from `backends/kernels.py`, right behind the decoder.

May import `views`, `concurrency`, `rng` and `errors`. Read `gpu_views.py` first.
"""
