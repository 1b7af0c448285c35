import types

import jax
import pytest

from teleflm_jax.hardware import throughput


@pytest.mark.parametrize(
    "kind, card, teraflops",
    [
        ("NVIDIA A100-SXM4-80GB", "A100", 312),
        ("A100-SXM4-40GB", "A100", 312),
        ("NVIDIA A100-PCIE-40GB", "A100 PCIE", 312),
        ("NVIDIA A100 80GB PCIe", "A100 PCIE", 312),
        ("NVIDIA A800-SXM4-80GB", "A800", 312),
        ("NVIDIA A800 80GB PCIe", "A800 PCIE", 312),
        ("NVIDIA A800 40GB Active", "A800 ACTIVE", 312),
        ("NVIDIA H100 80GB HBM3", "H100", 989),
        ("NVIDIA H100 PCIe", "H100 PCIE", 756),
        ("NVIDIA H100 NVL", "H100 NVL", 835),
        ("NVIDIA H800", "H800", 989),
        ("NVIDIA H800 PCIe", "H800 PCIE", 756),
        ("NVIDIA H200", "H200", 989),
        ("NVIDIA H200 NVL", "H200 NVL", 835),
        ("NVIDIA H20", "H20", 148),
        ("NVIDIA H20-3e", "H20-3E", 148),
        ("NVIDIA GH200 480GB", "GH200", 989),
        ("NVIDIA GH200 144G HBM3e", "GH200", 989),
        ("NVIDIA B200", "B200", 2_250),
        ("NVIDIA B300 SXM6 AC", "B300 AC", 2_250),
        ("NVIDIA GB200", "GB200", 2_500),
        ("NVIDIA L4", "L4", 121),
        ("NVIDIA L40", "L40", 181),
        ("NVIDIA L40S", "L40S", 362),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 ADA GENERATION", 364.2),
        ("NVIDIA GeForce RTX 4090", "RTX 4090", 165.2),
    ],
)
def test_a_card_has_its_own_data_sheet_s_peak(monkeypatch, kind, card, teraflops):
    monkeypatch.setattr(throughput, "product_rate", None)
    monkeypatch.setattr(jax, "devices", lambda: [types.SimpleNamespace(device_kind=kind, platform="gpu")])
    assert throughput.card(kind) == card
    for dtype in ("bfloat16", "float16"):
        found = throughput.peak(dtype)
        assert found.flops == pytest.approx(teraflops * 1e12) and found.source == f"{kind}: dense {dtype}, from the vendor's data sheet"


@pytest.mark.parametrize(
    "kind, dtype",
    [
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "bfloat16"),
        ("NVIDIA A100-SXM-64GB", "bfloat16"),
        ("NVIDIA A100-40C", "bfloat16"),
        ("GRID A100X-10C", "bfloat16"),
        ("NVIDIA A10G", "bfloat16"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "bfloat16"),
        ("NVIDIA GeForce RTX 4090 D", "bfloat16"),
        ("NVIDIA H100 80GB HBM3", "float32"),
        ("a card of tomorrow", "float16"),
        ("cpu", "bfloat16"),
    ],
)
def test_what_no_data_sheet_tells_is_measured_in_the_dtype_of_the_run(monkeypatch, kind, dtype):
    asked = []
    monkeypatch.setattr(throughput, "product_rate", lambda dtype: asked.append(dtype) or 5e9)
    monkeypatch.setattr(jax, "devices", lambda: [types.SimpleNamespace(device_kind=kind, platform="gpu")])
    assert throughput.peak(dtype) == throughput.Peak(flops=5e9, source=f"{kind}: {dtype} matrix products, measured at the start")
    assert asked == [dtype]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_products_are_measured_in_their_dtype_and_cpu_devices_share(monkeypatch, dtype):
    def products(device, *, dtype, width, repeats, times):
        asked.append(dtype)
        return repeats * 2 * width**3 / 8e10

    asked = []
    monkeypatch.setattr(throughput, "products", products)
    assert throughput.product_rate(dtype) == pytest.approx(8e10 / jax.local_device_count()) and asked == [dtype]


def test_a_measured_rate_is_one():
    assert 1e8 < throughput.peak("bfloat16").flops < 1e15
