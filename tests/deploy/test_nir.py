"""NIR files: what is in them, and a reader of NumPy alone that runs their graph as NIR defines its nodes."""

import io
import sys

import numpy as np
import pytest

from qsdt_jax.core.neurons import make_neuron
from qsdt_jax.deploy.fold import fold
from qsdt_jax.deploy.graphs.nir import export_nir
from qsdt_jax.deploy.program import IMAGES, LOGITS, Bilinear, Fire, Linear, Pool, Program
from qsdt_jax.deploy.spike_driven import SpikeArithmetic, unroll
from qsdt_jax.errors import UserError
from qsdt_jax.layers.lowering import ConvGeometry
from tests.deploy.nets import deployed_form, draw_images, draw_variables, short_net

h5py = pytest.importorskip("h5py", reason="pip install h5py")

LAST = "downsample3/conv"  # The last value before attention.


def read_graph(content: bytes) -> tuple[dict[str, dict], list[tuple[str, str]]]:
    """Parameters of each node by name, and the edges."""
    with h5py.File(io.BytesIO(content)) as file:
        graph = file["node"]
        assert graph["type"][()] == b"NIRGraph" and file["version"][()] == b"1.0.8"
        nodes = {
            name: {key: value[()] for key, value in node.items()} for name, node in graph["nodes"].items()
        }
        return nodes, [(before.decode(), after.decode()) for before, after in graph["edges"][()]]


def run_graph(content: bytes, images: np.ndarray) -> dict[str, np.ndarray]:
    """The value of every node for images (N, C, H, W): float32, one rounding an operation, edges added up."""
    nodes, edges = read_graph(content)
    values = {"input": images}
    while len(values) < len(nodes):
        for name, node in nodes.items():
            sources = [before for before, after in edges if after == name]
            if name in values or not all(source in values for source in sources):
                continue
            x = sources and sum(values[source] for source in sources)
            match node["type"]:
                case b"Conv2d":
                    values[name] = convolved(x, node)
                case b"Threshold":
                    values[name] = (x > node["threshold"]).astype(np.float32)
                case b"Scale":
                    values[name] = x * node["scale"]
                case b"AvgPool2d":
                    assert tuple(node["kernel_size"]) == x.shape[2:]
                    values[name] = x.mean((2, 3), dtype=np.float32, keepdims=True)
                case b"Output":
                    assert tuple(node["shape"]) == x.shape[1:]
                    values[name] = x
    return values


def convolved(x: np.ndarray, node: dict) -> np.ndarray:
    """Sums in float64, which are exact here, rounded once; then the bias."""
    (stride, _), (padding, _) = node["stride"], node["padding"]
    assert tuple(node["input_shape"]) == x.shape[2:] and node["groups"] == 1 and set(node["dilation"]) == {1}
    x = np.pad(x.astype(np.float64), [(0, 0), (0, 0), (padding, padding), (padding, padding)])
    windows = np.lib.stride_tricks.sliding_window_view(x, node["weight"].shape[2:], (2, 3))
    windows = windows[:, :, ::stride, ::stride]
    y = np.einsum("nchwij,ocij->nohw", windows, node["weight"], optimize=True).astype(np.float32)
    return y + node["bias"][:, None, None]


def convolutional(**fields) -> Program:
    """What comes before attention.

    Scales and shifts of layers whose result other layers take are dyadic: their sums are exact in float64.
    """
    model = short_net(**fields)
    program = fold(model, draw_variables(model))
    read = {layer.input for layer in program.layers if not layer.spikes}
    end = 1 + [step.name for step in program.steps].index(LAST)

    def rounded(layer: Linear) -> Linear:
        scale, shift = 2.0 ** np.round(np.log2(np.abs(layer.scale))), np.round(64 * layer.shift) / 64
        return layer.replace(scale=scale.astype(np.float32), shift=shift.astype(np.float32))

    steps = (rounded(step) if step.name in read else step for step in program.steps[:end])
    return program.replace(steps=tuple(steps), outputs=((LOGITS, LAST),))


def grid_images(*shape: int) -> np.ndarray:
    """Multiples of 1/64: products with whole weights have exact sums."""
    return np.round(64 * draw_images(*shape)) / np.float32(64)


@pytest.mark.parametrize(
    "fields",
    [{"neuron": "lif", "levels": 1}, {"neuron": "quantized_relu", "bits": 2, "timesteps": 2}],
    ids=str,
)
def test_the_graph_gives_the_spikes_of_the_spike_driven_form(fields):
    program, images = convolutional(**fields), grid_images(2, 32, 48, 3)
    neuron = program.neuron
    found = run_graph(export_nir(program, (32, 48)), images.transpose(0, 3, 1, 2))
    values, _ = deployed_form(program, images, SpikeArithmetic(neuron.levels))
    # Of an image that is shown in every time step, one.
    values = {name: np.asarray(value)[:: neuron.timesteps] for name, value in values.items()}
    for step in program.steps:
        expected, name = values[step.name], step.name.replace("/", ".")
        if isinstance(step, Fire):
            assert 0.02 < np.mean(expected) / neuron.levels < 0.98
            for d, slot in enumerate(unroll(expected, neuron.levels)):
                assert np.array_equal(found[f"{name}.slot{d}"].transpose(0, 2, 3, 1), slot), name
        else:
            assert np.array_equal(found[name].transpose(0, 2, 3, 1), expected), name
    assert np.array_equal(found["output"], found[LAST.replace("/", ".")])


def test_until_a_layer_it_is_the_part_before():
    model = short_net()
    whole = fold(model, draw_variables(model))
    before = whole.replace(steps=whole.steps[: 1 + [s.name for s in whole.steps].index(LAST)])
    before = before.replace(outputs=((LOGITS, LAST),))
    assert export_nir(whole, (32, 48), until=LAST) == export_nir(before, (32, 48))


def without_attention(threshold_kind: str = "ie_lif", **neuron) -> Program:
    """A stem, a layer of groups, a mean of spikes and a head."""
    generator = np.random.default_rng(3)

    def layer(name: str, before: str, shape: tuple[int, ...], spikes=True, **geometry) -> Linear:
        return Linear(
            name=name,
            input=before,
            spikes=spikes,
            geometry=ConvGeometry(**{"stride": 1, "padding": 0, **geometry}),
            bits=4,
            weights=generator.integers(-8, 8, shape).astype(np.int8),
            scale=generator.uniform(0.03, 0.1, shape[-1]).astype(np.float32),
            shift=generator.uniform(0, 0.5, shape[-1]).astype(np.float32),
        )

    steps = (
        layer("stem", IMAGES, (3, 3, 3, 4), spikes=False, stride=16, padding=1),
        Fire(name="stem/neuron", input="stem", input_gain=0.7),
        layer("groups", "stem/neuron", (3, 3, 2, 8), padding=1, groups=2),
        Pool(name="pool", input="groups"),
        Fire(name="head/neuron", input="pool"),
        layer("head", "head/neuron", (1, 1, 8, 5)),
    )
    return Program(steps=steps, neuron=make_neuron(threshold_kind, **neuron), outputs=((LOGITS, "head"),))


def test_a_network_without_attention_as_a_whole():
    program, images = without_attention(levels=3), grid_images(3, 32, 64, 3)
    content = export_nir(program, (32, 64), metadata={"classes": "[1]"})
    assert export_nir(program, (32, 64), metadata={"classes": "[1]"}) == content
    found = run_graph(content, images.transpose(0, 3, 1, 2))
    values, logits = deployed_form(program, images, SpikeArithmetic(3))
    assert found["output"].shape == (3, 5, 1, 1) and np.array_equal(found["output"][..., 0, 0], logits)
    assert len(np.unique(values["head/neuron"])) > 2
    with h5py.File(io.BytesIO(content)) as file:
        assert file["node/metadata/classes"][()] == b"[1]"
    nodes, _ = read_graph(content)
    dense = nodes["groups.product"]["weight"]
    assert dense.shape == (8, 4, 3, 3) and not dense[:4, 2:].any() and not dense[4:, :2].any()
    assert np.array_equal(dense[4:, 2:].transpose(2, 3, 1, 0), program.layers[1].weights[..., 4:])


@pytest.mark.parametrize("gain", [1.0, 0.7])
@pytest.mark.parametrize(
    "neuron",
    [make_neuron(levels=4), make_neuron(levels=7), make_neuron("lif", levels=1, decay_input=True)],
    ids=["4", "7", "lif"],
)
def test_thresholds_part_the_floats_as_the_neuron_does(neuron, gain):
    """Each is the last float below its count: a spike is more than the threshold, half a spike rounds up."""
    program = without_attention().replace(neuron=neuron)
    program = program.replace(
        steps=tuple(s.replace(input_gain=gain) if s.name == "stem/neuron" else s for s in program.steps)
    )
    nodes, _ = read_graph(export_nir(program, (32, 32)))
    u = np.array([nodes[f"stem.neuron.slot{d}"]["threshold"][0, 0, 0] for d in range(neuron.levels)])
    for d, last in enumerate(u):
        for potential, spikes in ((last, d), (np.nextafter(last, np.float32(np.inf)), d + 1)):
            v = np.float32(neuron.scale) * (potential * np.float32(gain) if gain != 1 else potential)
            v = v - np.float32(neuron.threshold - 0.5)
            assert np.floor(np.clip(v, 0, np.float32(neuron.levels)) + np.float32(0.5)) == spikes


def test_what_nir_cannot_say_is_refused_by_its_name():
    model = short_net()
    program = fold(model, draw_variables(model))
    for until, told in [
        (
            None,
            r"^block3_0/attn is attention, which .*no node; what comes before it, up to block3_0/\S+, has",
        ),
        ("block3", r"the network has no step block3; did you mean 'block3_0/attn'\?"),
        ("zz", "the network has no step zz; expected one like downsample1_1/conv"),
    ]:
        with pytest.raises(UserError, match=told):
            export_nir(program, (32, 32), until=until)
    with pytest.raises(UserError, match="sepconv/neuron1 keeps a membrane through 3 time steps, which its"):
        export_nir(program.replace(neuron=make_neuron(timesteps=3)), (32, 32), until=LAST)
    wide = Bilinear(name="wide", input=LAST)
    steps = (*program.steps[: 1 + [step.name for step in program.steps].index(LAST)], wide)
    with pytest.raises(UserError, match=f"^wide changes the size of a map, for .*, up to {LAST}, has one"):
        export_nir(program.replace(steps=steps, outputs=((LOGITS, "wide"),)), (32, 32))


def test_without_the_package_h5py_it_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UserError, match="NIR export needs the package h5py; pip install h5py"):
        export_nir(without_attention(), (32, 32))


def test_the_package_nir_reads_it(tmp_path):
    """With its check of all shapes."""
    nir = pytest.importorskip("nir")
    program = convolutional()
    (tmp_path / "model.nir").write_bytes(export_nir(program, (32, 48), metadata={"a": "b"}))
    graph = nir.read(tmp_path / "model.nir")
    nodes, edges = read_graph((tmp_path / "model.nir").read_bytes())
    assert set(graph.nodes) == set(nodes) and set(graph.edges) == set(edges) and graph.metadata == {"a": "b"}
    assert list(graph.input_type["input"]) == [3, 32, 48]
    assert list(graph.output_type["output"]) == [16, 2, 3]
    kinds = {type(node).__name__ for node in graph.nodes.values()}
    assert kinds == {"Input", "Output", "Conv2d", "Threshold", "Scale"}
