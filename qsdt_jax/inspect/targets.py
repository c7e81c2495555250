"""The GPUs that programs can be compiled for, as XLA and a roofline need to know them: data of the vendor."""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType

from qsdt_jax.inspect.kernels import Kernel
from qsdt_jax.inspect.products import Product

# Of a peak: what large copies and large products reach. LAUNCH: seconds that a kernel takes at least.
COPY_SHARE, PRODUCT_SHARE, LAUNCH = 0.9, 0.8, 2e-6
FULL_FLOAT32 = "f32 in full precision"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """One kind of GPU.

    Attributes:
      title: its name.
      compute_capability: of CUDA, (major, minor).
      cores: its multiprocessors.
      lanes: float32 units of each.
      clock: GHz.
      memory: bytes.
      bandwidth: of the memory, bytes/s.
      l2_cache: bytes.
      shared_memory: bytes of a multiprocessor.
      peaks: FLOP/s of dense products by the type of their operands.
    """

    title: str
    compute_capability: tuple[int, int]
    cores: int
    lanes: int
    clock: float
    memory: int
    bandwidth: float
    l2_cache: int
    shared_memory: int
    peaks: Mapping[str, float]

    @property
    def description(self) -> str:
        """The text by which XLA compiles for it, a `GpuTargetConfigProto`."""
        major, minor = self.compute_capability
        return f"""
            gpu_device_info {{
              threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
              registers_per_core_limit: 65536 registers_per_block_limit: 65536
              block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
              shared_memory_per_block: 49152 shared_memory_per_core: {self.shared_memory}
              shared_memory_per_block_optin: {self.shared_memory - 1024}
              core_count: {self.cores} fpus_per_core: {self.lanes} clock_rate_ghz: {self.clock}
              memory_bandwidth: {self.bandwidth:.0f} l2_cache_size: {self.l2_cache}
              device_memory_size: {self.memory}
              cuda_compute_capability {{ major: {major} minor: {minor} }}
            }}
            platform_name: "CUDA" device_description_str: "{self.title}"
            dnn_version_info {{ major: 9 minor: 10 }} runtime_version {{ major: 13 minor: 0 patch: 0 }}
        """

    def seconds(self, kernel: Kernel) -> float:
        """A bound on the time of a kernel: that of its bytes or of its products, whichever is longer."""
        products = sum(product.flops / (PRODUCT_SHARE * self._peak(product)) for product in kernel.products)
        return max(kernel.moved / (COPY_SHARE * self.bandwidth), products) + LAUNCH

    def _peak(self, product: Product) -> float:
        """By the wider operand; what has no peak of its own multiplies as float32 in full precision."""
        kind = FULL_FLOAT32 if product.full and product.left == "f32" else product.left
        return self.peaks.get(kind, self.peaks[FULL_FLOAT32])


MIB = 2**20
HOPPER_PEAKS = MappingProxyType(
    {
        "s8": 1979e12,
        "u8": 1979e12,
        "f8e4m3fn": 1979e12,
        "f8e5m2": 1979e12,
        "bf16": 989e12,
        "f16": 989e12,
        "f32": 494e12,  # As TF32.
        FULL_FLOAT32: 67e12,
        "f64": 67e12,
    }
)
AMPERE_PEAKS = MappingProxyType(
    {
        "s8": 624e12,
        "u8": 624e12,
        "bf16": 312e12,
        "f16": 312e12,
        "f32": 156e12,  # As TF32.
        FULL_FLOAT32: 19.5e12,
        "f64": 19.5e12,
    }
)
H100 = Target(
    title="NVIDIA H100 80GB HBM3",
    compute_capability=(9, 0),
    cores=132,
    lanes=128,
    clock=1.98,
    memory=80_994 * MIB,
    bandwidth=3.352e12,
    l2_cache=50 * MIB,
    shared_memory=228 * 1024,
    peaks=HOPPER_PEAKS,
)
H200 = dataclasses.replace(H100, title="NVIDIA H200", memory=143_000 * MIB, bandwidth=4.8e12)
A100 = Target(
    title="NVIDIA A100-SXM4-80GB",
    compute_capability=(8, 0),
    cores=108,
    lanes=64,
    clock=1.41,
    memory=81_050 * MIB,
    bandwidth=2.039e12,
    l2_cache=40 * MIB,
    shared_memory=164 * 1024,
    peaks=AMPERE_PEAKS,
)
TARGETS = MappingProxyType({"h100": H100, "h200": H200, "a100": A100})
