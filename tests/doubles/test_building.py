"""The TensorRT double builds: calibration, precision, timing cache, progress."""

from __future__ import annotations

import struct
from typing import Any, Dict, List, Optional

import numpy as np
import onnxruntime
import pytest

from tests.doubles.samples import build, cnn, execute, expected, images, logger_of, network_of

pytestmark = pytest.mark.tensorrt

rounds = pytest.mark.skipif(
    tuple(int(part) for part in onnxruntime.__version__.split(".")[:2]) < (1, 17),
    reason="this ONNX Runtime takes a Cast to float16 and back for nothing",
)


def calibrator(trt: Any, gpu: Any, base: str = "IInt8EntropyCalibrator2", count: int = 3, fails_at: int = -1) -> Any:
    """A calibrator on the real base: `count` batches of one through one device buffer."""

    class Fed(getattr(trt, base)):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.buffer = gpu.allocate(3 * 8 * 8 * 4)
            self.stream = gpu.stream()
            self.given, self.names = 0, []
            self.cache: Optional[bytes] = None
            self.view: Any = None

        def get_batch_size(self) -> int:
            return 1

        def get_batch(self, names: List[str]) -> Any:
            self.names = names
            if self.given == fails_at:
                raise OSError("the disk is gone")
            if self.given == count:
                return None
            gpu.to_device(self.buffer.address, images(1) * (self.given + 1), self.stream)
            self.stream.synchronize()
            self.given += 1
            return [self.buffer.address]

        def read_calibration_cache(self) -> Any:
            return self.cache

        def write_calibration_cache(self, cache: Any) -> None:
            self.view = cache
            self.cache = bytes(cache)

    return Fed()


@pytest.fixture
def weak(trt: Any) -> None:
    """Only versions that calibrate."""
    if not hasattr(trt, "IInt8EntropyCalibrator2"):
        pytest.skip("this version has no calibrators")


def scales_of(cache: bytes) -> Dict[str, float]:
    """The scales of a cache, read as trtexec reads them."""
    lines = [line.split(": ") for line in cache.decode().splitlines()[1:]]
    return {name: struct.unpack("!f", bytes.fromhex(digits))[0] for name, digits in lines}


@pytest.mark.parametrize(
    ("base", "name"),
    [("IInt8EntropyCalibrator2", "EntropyCalibration2"), ("IInt8MinMaxCalibrator", "MinMaxCalibration")],
)
def test_a_calibrator_is_fed_and_its_ranges_are_of_what_it_gave(
    trt: Any, surface: str, gpu: Any, weak: None, base: str, name: str
) -> None:
    fed = calibrator(trt, gpu, base)
    plan = build(trt, logger_of(trt), cnn(), ["INT8"], batches=(1, 4), int8_calibrator=fed)
    assert plan is not None
    assert (fed.given, fed.names) == (3, ["x"])
    major, minor, patch = [int(part) for part in trt.__version__.split("+")[0].split(".")]
    number = f"{major}{minor}{patch:02d}" if major < 10 else f"{major}{minor:02d}{patch:02d}"
    assert fed.cache.decode().splitlines()[0] == f"TRT-{number}-{name}"
    scales = scales_of(fed.cache)
    assert set(scales) >= {"x", "conv1", "relu1", "y"}
    top = np.abs(images(1) * 3).max()
    if base == "IInt8MinMaxCalibrator":
        assert scales["x"] == pytest.approx(top / 127, rel=1e-6)
    assert 0.5 * top / 127 < scales["x"] <= top / 127 * (1 + 1e-6)
    with pytest.raises(ValueError, match="released"):
        bytes(fed.view)


def test_int8_from_a_calibrator_is_close_to_fp32_and_not_the_same(trt: Any, gpu: Any, weak: None) -> None:
    fed = calibrator(trt, gpu)
    logger = logger_of(trt)
    plan = build(trt, logger, cnn(), ["INT8"], int8_calibrator=fed)
    got, want = execute(trt, logger, plan, images(1)), expected(cnn(), images(1))
    assert not np.array_equal(got, want)
    np.testing.assert_allclose(got, want, atol=0.15 * np.abs(want).max())


def test_a_cache_is_read_instead_of_batches(trt: Any, gpu: Any, weak: None) -> None:
    first, second, third = calibrator(trt, gpu), calibrator(trt, gpu), calibrator(trt, gpu)
    logger = logger_of(trt)
    plan = build(trt, logger, cnn(), ["INT8"], int8_calibrator=first)
    second.cache = first.cache
    again = build(trt, logger, cnn(), ["INT8"], int8_calibrator=second)
    assert second.given == 0
    np.testing.assert_array_equal(execute(trt, logger, plan, images(1)), execute(trt, logger, again, images(1)))
    third.cache = first.cache.replace(b"TRT-", b"TRT-7")
    assert build(trt, logger, cnn(), ["INT8"], int8_calibrator=third) is not None
    assert third.given == 3, "a cache of another version is not used"


def test_an_exception_in_get_batch_is_swallowed_and_ends_the_data(trt: Any, gpu: Any, weak: None, capfd: Any) -> None:
    fed = calibrator(trt, gpu, fails_at=2)
    assert build(trt, logger_of(trt), cnn(), ["INT8"], int8_calibrator=fed) is not None
    assert fed.given == 2
    assert "the disk is gone" in capfd.readouterr().err


def test_no_batch_at_all_fails_the_build(trt: Any, gpu: Any, weak: None) -> None:
    logger = logger_of(trt)
    assert build(trt, logger, cnn(), ["INT8"], int8_calibrator=calibrator(trt, gpu, count=0)) is None
    assert "no scaling factors" in logger.errors()


def test_a_batch_that_is_too_short_fails_the_build(trt: Any, gpu: Any, weak: None) -> None:
    logger = logger_of(trt)
    fed = calibrator(trt, gpu)
    builder, network = network_of(trt, logger, cnn())
    config = builder.create_builder_config()
    config.set_flag(trt.BuilderFlag.INT8)
    config.int8_calibrator = fed
    for batch in (1, 4):
        profile = builder.create_optimization_profile()
        profile.set_shape("x", *[(batch, 3, 8, 8)] * 3)
        config.add_optimization_profile(profile)
    config.set_calibration_profile(profile)
    assert builder.build_serialized_network(network, config) is None
    assert "illegal memory access" in logger.errors()


def test_a_calibrator_is_left_out_of_a_quantized_graph(trt: Any, gpu: Any, weak: None) -> None:
    logger = logger_of(trt)
    fed = calibrator(trt, gpu)
    plan = build(trt, logger, cnn(quantized=True), ["INT8"], int8_calibrator=fed)
    assert fed.given == 0
    assert any("explicit precision" in line for _, line in logger.lines)
    want = expected(cnn(quantized=True), images(1))
    np.testing.assert_allclose(execute(trt, logger, plan, images(1)), want, atol=0.05 * np.abs(want).max())


@rounds
def test_fp16_rounds_every_activation(trt: Any, gpu: Any) -> None:
    if not hasattr(trt.BuilderFlag, "FP16"):
        pytest.skip("this version has no FP16 flag")
    logger = logger_of(trt)
    got = execute(trt, logger, build(trt, logger, cnn(), ["FP16"]), images(4))
    want = expected(cnn(), images(4))
    assert not np.array_equal(got, want)
    np.testing.assert_array_equal(got, got.astype(np.float16))
    np.testing.assert_allclose(got, want, rtol=0.02, atol=0.02)


@rounds
def test_fp16_overflows(trt: Any, gpu: Any) -> None:
    if not hasattr(trt.BuilderFlag, "FP16"):
        pytest.skip("this version has no FP16 flag")
    logger = logger_of(trt)
    got = execute(trt, logger, build(trt, logger, cnn(), ["FP16"]), images(1) * np.float32(30000))
    assert not np.isfinite(got).all()


def test_layers_stay_in_fp32_where_the_config_obeys(trt: Any, gpu: Any) -> None:
    if not hasattr(trt.BuilderFlag, "FP16"):
        pytest.skip("this version has no FP16 flag")
    logger = logger_of(trt)

    def run(*flags: str) -> Any:
        builder, network = network_of(trt, logger, cnn())
        for index in range(network.num_layers):
            network.get_layer(index).precision = trt.float32
        config = builder.create_builder_config()
        for flag in ("FP16", *flags):
            config.set_flag(getattr(trt.BuilderFlag, flag))
        profile = builder.create_optimization_profile()
        profile.set_shape("x", *[(1, 3, 8, 8)] * 3)
        config.add_optimization_profile(profile)
        return execute(trt, logger, builder.build_serialized_network(network, config), images(1))

    want = expected(cnn(), images(1))
    obeyed, ignored = run("OBEY_PRECISION_CONSTRAINTS"), run()
    assert np.abs(obeyed - want).max() < np.abs(ignored - want).max()


def test_fp32_needs_tf32_cleared(trt: Any, gpu: Any) -> None:
    logger, want = logger_of(trt), expected(cnn(), images(1))
    assert np.array_equal(execute(trt, logger, build(trt, logger, cnn()), images(1)), want)
    assert not np.array_equal(execute(trt, logger, build(trt, logger, cnn(), ["TF32"]), images(1)), want)


def timed(trt: Any, logger: Any, content: bytes = b"") -> Any:
    """A build with a timing cache: the plan and the cache."""
    builder, network = network_of(trt, logger, cnn())
    config = builder.create_builder_config()
    cache = config.create_timing_cache(content)
    assert config.set_timing_cache(cache, ignore_mismatch=False)
    profile = builder.create_optimization_profile()
    profile.set_shape("x", *[(1, 3, 8, 8)] * 3)
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    return bytes(plan), bytes(config.get_timing_cache().serialize())


def test_builds_differ_unless_a_timing_cache_holds_the_tactics(trt: Any, gpu: Any) -> None:
    logger = logger_of(trt)
    plan, cache = timed(trt, logger)
    other, _ = timed(trt, logger)
    again, same = timed(trt, logger, cache)
    assert plan != other
    assert (plan, cache) == (again, same)


def test_a_timing_cache_of_another_version_is_refused(trt: Any, gpu: Any) -> None:
    logger = logger_of(trt)
    _, content = timed(trt, logger)
    config = trt.Builder(logger).create_builder_config()
    assert config.create_timing_cache(content[:4] + b"\x07" + content[5:]) is None
    assert config.create_timing_cache(content[:-1]) is None
    assert "stdVersionRead" in logger.errors()
    foreign = config.create_timing_cache(content[:10] + b"\x07\x00\x02\x00" + content[14:])
    assert config.set_timing_cache(foreign, False) is False
    assert config.set_timing_cache(foreign, True) is True


def test_timing_caches_combine(trt: Any, gpu: Any) -> None:
    logger = logger_of(trt)
    _, content = timed(trt, logger)
    config = trt.Builder(logger).create_builder_config()
    empty, full = config.create_timing_cache(b""), config.create_timing_cache(content)
    assert empty.combine(full, ignore_mismatch=False) is True
    assert bytes(empty.serialize()) == content
    assert full.combine(full, False) is False
    assert full.reset() is True
    assert bytes(full.serialize()) != content


def test_progress_is_told_and_can_stop_the_build(trt: Any, gpu: Any) -> None:
    if not hasattr(trt, "IProgressMonitor"):
        pytest.skip("this version has no IProgressMonitor")

    class Monitor(trt.IProgressMonitor):  # type: ignore[name-defined,misc]
        def __init__(self, stop: bool) -> None:
            super().__init__()
            self.stop, self.events = stop, []

        def phase_start(self, phase_name: str, parent_phase: Any, num_steps: int) -> None:
            self.events.append(("start", phase_name, parent_phase, num_steps))

        def step_complete(self, phase_name: str, step: int) -> bool:
            self.events.append(("step", phase_name, step))
            return not self.stop

        def phase_finish(self, phase_name: str) -> None:
            self.events.append(("finish", phase_name))

    through, stopped = Monitor(False), Monitor(True)
    assert build(trt, logger_of(trt), cnn(), progress_monitor=through) is not None
    assert through.events[0][:3] == ("start", "Building Engine", None)
    assert through.events[-1] == ("finish", "Building Engine")
    starts = [event[1] for event in through.events if event[0] == "start"]
    assert sorted(starts) == sorted(event[1] for event in through.events if event[0] == "finish")
    assert build(trt, logger_of(trt), cnn(), progress_monitor=stopped) is None


def test_versions_that_build_an_engine_at_once_do(trt: Any, gpu: Any) -> None:
    names = [name for name in ("build_engine", "build_engine_with_config") if hasattr(trt.Builder, name)]
    builder, network = network_of(trt, logger_of(trt), cnn())
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    profile.set_shape("x", *[(1, 3, 8, 8)] * 3)
    config.add_optimization_profile(profile)
    for name in names:
        assert getattr(builder, name)(network, config).num_io_tensors == 2


def test_a_plan_is_a_buffer_and_nothing_else(trt: Any, gpu: Any) -> None:
    plan = build(trt, logger_of(trt), cnn())
    assert plan.nbytes == len(bytes(plan)) == memoryview(plan).nbytes
    for use in (len, list, lambda one: one[0], lambda one: one + b"", lambda one: one.hex()):
        with pytest.raises((TypeError, AttributeError)):
            use(plan)


def test_strongly_typed_halves_run_as_they_are(trt: Any, gpu: Any) -> None:
    if not hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"):
        pytest.skip("this version has no strong typing")
    from onnx import TensorProto, helper, numpy_helper

    weights = np.random.default_rng(3).standard_normal((10, 192)).astype(np.float16)
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"], name="flat"),
        helper.make_node("Cast", ["flat"], ["half"], name="down", to=TensorProto.FLOAT16),
        helper.make_node("Gemm", ["half", "w"], ["made"], name="fc", transB=1),
        helper.make_node("Cast", ["made"], ["y"], name="up", to=TensorProto.FLOAT),
    ]
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])]
    outs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 10])]
    graph = helper.make_graph(nodes, "half", ends, outs, [numpy_helper.from_array(weights, "w")])
    model: Any = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    content = model.SerializeToString()
    strong = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    logger = logger_of(trt)
    plan = build(trt, logger, content, network_flags=strong)
    np.testing.assert_array_equal(execute(trt, logger, plan, images(4)), expected(content, images(4)))
