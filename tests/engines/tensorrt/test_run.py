from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, Callable, Dict, List

import numpy as np
import pytest

from bench import spans
from engines.cuda import CudaError, Event
from engines.errors import IncompatibleError, ModelError, OptimizeError, UsageError
from engines.tensorrt import run as running
from tests.engines.tensorrt.plans import close, expected, images, opened, plan

pytestmark = pytest.mark.tensorrt


@pytest.fixture
def onnx_file(graph_file: Callable[..., Path]) -> Path:
    return graph_file()


@pytest.fixture
def folder(trt: Any, surface: str, onnx_file: Path, tmp_path: Path) -> Path:
    """Holds `model.plan`, which serves batch 1 and 4."""
    plan(surface, onnx_file, tmp_path)
    return tmp_path


@pytest.fixture
def driver(cuda_ledger: Any) -> Any:
    import ctypes

    cuda_ledger.fakecuda_set_oom.argtypes = [ctypes.c_longlong, ctypes.c_longlong]
    return cuda_ledger


def held(driver: Any) -> Dict[str, int]:
    return {
        name: getattr(driver, f"fakecuda_live_{name}")()
        for name in ("allocations", "host", "streams", "events", "graph_executables")
    }


WAYS: List[Dict[str, Any]] = [
    {},
    {"spin": True},
    {"cuda_graph": True},
    {"io": "zero-copy"},
    {"io": "zero-copy", "cuda_graph": True, "spin": True},
]


@pytest.mark.parametrize("options", WAYS, ids=lambda one: "-".join(one) or "plain")
def test_each_batch_gives_what_onnx_runtime_gives(folder: Path, onnx_file: Path, options: Dict[str, Any]):
    with opened(folder, **options) as runner:
        assert runner.batches == (1, 4) and runner.spec.layout == "NCHW"
        assert runner.inputs[0].shape == (None, 3, 16, 16) and runner.outputs[0].shape == (None, 10)
        for batch in (1, 4, 1):
            feeds = images(batch, seed=batch)
            query = runner.bind(feeds)
            for _ in range(3):
                close(query(), expected(onnx_file, feeds))
        assert runner.flags == []


@pytest.mark.parametrize("options", WAYS, ids=lambda one: "-".join(one) or "plain")
def test_each_query_sees_what_the_feeds_hold_now(folder: Path, onnx_file: Path, options: Dict[str, Any]):
    feeds = images(4)
    with opened(folder, **options) as runner:
        query = runner.bind(feeds)
        for seed in range(1, 4):
            feeds["image"][:] = images(4, seed)["image"]
            close(query(), expected(onnx_file, feeds))


@pytest.mark.parametrize("options", WAYS, ids=lambda one: "-".join(one) or "plain")
def test_bindings_of_one_batch_do_not_mix(folder: Path, onnx_file: Path, options: Dict[str, Any]):
    first, second = images(4, 1), images(4, 2)
    with opened(folder, **options) as runner:
        one, two = runner.bind(first), runner.bind(second)
        for _ in range(2):
            close(one(), expected(onnx_file, first))
            close(two(), expected(onnx_file, second))
            kept = one()
            two()
            close(kept, expected(onnx_file, first))  # the other's query does not write into this one's results


@pytest.mark.parametrize("options", WAYS, ids=lambda one: "-".join(one) or "plain")
def test_without_the_wait_the_answer_is_wrong(
    folder: Path, onnx_file: Path, options: Dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    """What the tests above rest on: were a synchronise left out, they would see it."""
    first, second = images(4, 1), images(4, 2)
    with opened(folder, **options) as runner:
        feeds = {"image": first["image"].copy()}
        monkeypatch.setattr(running.Stream, "synchronize", lambda self: None)
        monkeypatch.setattr(Event, "synchronize", lambda self: None)
        query = runner.bind(feeds)
        close(waited(runner, query), expected(onnx_file, first))
        feeds["image"][:] = second["image"]
        got = {name: value.copy() for name, value in query().items()}
        assert not np.allclose(got["scores"], expected(onnx_file, second)["scores"])
        close(waited(runner, query), expected(onnx_file, second))


def waited(runner: Any, query: Any) -> Dict[str, np.ndarray]:
    """What a query's result is once somebody waited for the device."""
    result: Dict[str, np.ndarray] = query()
    runner.gpu.synchronize()
    return result


@pytest.mark.parametrize("where", ["begin", "end", "instantiate"])
def test_work_that_cannot_be_captured_runs_without_a_graph(
    folder: Path, onnx_file: Path, where: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("FAKECUDA_CAPTURE_FAIL", where)
    feeds = images(1)
    with opened(folder, cuda_graph=True) as runner:
        close(runner.bind(feeds)(), expected(onnx_file, feeds))
        runner.bind(feeds)
        assert runner.flags == ["no-cuda-graph"]


def test_a_graph_that_fails_at_launch_is_an_error(folder: Path, onnx_file: Path, monkeypatch: pytest.MonkeyPatch):
    with opened(folder, cuda_graph=True) as runner:
        query = runner.bind(images(1))
        with monkeypatch.context() as patch:
            patch.setenv("FAKECUDA_CAPTURE_FAIL", "launch")
            with pytest.raises(CudaError, match="launching a CUDA graph"):
                query()
        close(query(), expected(onnx_file, images(1)))


def test_a_query_runs_in_any_thread_and_one_at_a_time(folder: Path, onnx_file: Path):
    wrong: List[str] = []
    with opened(folder) as runner:
        queries = [(seed, runner.bind(images(4, seed))) for seed in range(3)]
        wanted = [expected(onnx_file, images(4, seed)) for seed in range(3)]

        def work(seed: int, query: Any) -> None:
            for _ in range(5):
                try:
                    close(query(), wanted[seed])
                except Exception as error:
                    wrong.append(f"{seed}: {error}")

        def bind_there() -> None:
            work(1, runner.bind(images(4, 1)))

        threads = [threading.Thread(target=work, args=pair) for pair in queries]
        threads.append(threading.Thread(target=bind_there))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        close(queries[0][1](), wanted[0])
    assert wrong == []


def test_closing_in_another_thread_is_refused_and_possible_afterwards(folder: Path):
    runner = opened(folder)
    runner.bind(images(1))()
    refused: List[str] = []

    def leave() -> None:
        try:
            runner.close()
        except CudaError as error:
            refused.append(error.message)

    thread = threading.Thread(target=leave)
    thread.start()
    thread.join()
    runner.close()
    runner.close()
    assert len(refused) == 1 and "thread" in refused[0]


def test_infer_takes_no_memory_beyond_its_first_call(folder: Path, onnx_file: Path, cuda_ledger: Any):
    with opened(folder) as runner:
        results = [runner.infer(images(4, seed)) for seed in range(2)]
        before = cuda_ledger.fakecuda_live_allocations(), cuda_ledger.fakecuda_live_host()
        results += [runner.infer(images(4, seed)) for seed in range(2, 6)]
        assert (cuda_ledger.fakecuda_live_allocations(), cuda_ledger.fakecuda_live_host()) == before
    for seed, result in enumerate(results):
        close(result, expected(onnx_file, images(4, seed)))


@pytest.mark.parametrize("options", WAYS, ids=lambda one: "-".join(one) or "plain")
def test_what_is_no_longer_named_is_freed_and_its_results_stay(
    folder: Path, onnx_file: Path, options: Dict[str, Any], driver: Any
):
    """A loop over many batches must not end for want of memory; a result may outlive its query, not its runner."""
    with opened(folder, **options) as runner:
        other = runner.bind(images(4, 9))
        before = held(driver)
        results = []
        for seed in range(4):
            results.append(runner.bind(images(4, seed))())
            runner.slots(images(4, seed), graph=bool(options.get("cuda_graph")))
            spans.measure(runner.slots(images(4, seed)), 4, warmup_ms=0, duration_s=0, iterations=2)
        assert held(driver) == {**before, "host": before["host"] + 4}  # one output each
        assert len(runner._bindings) == 1
        for seed, result in enumerate(results):
            close(result, expected(onnx_file, images(4, seed)))
        view = results[3]["scores"][1:, 2:]
        del results, result
        assert held(driver)["host"] == before["host"] + 1  # what nobody can look at any longer is freed at once
        np.testing.assert_allclose(view, expected(onnx_file, images(4, 3))["scores"][1:, 2:], rtol=1e-5, atol=1e-5)
        del view
        assert held(driver) == before
        close(other(), expected(onnx_file, images(4, 9)))
        runner.slots(images(1))[1].enqueue()  # freed although it was not waited for


@pytest.mark.parametrize(
    ("feeds", "words"),
    [
        (images(2), r"serves batch 1, 4, not 2"),
        ({"picture": images(1)["image"]}, "the model takes image; picture was given"),
        ({}, "nothing was given"),
        ({"image": np.zeros((1, 3, 16, 15), np.float32)}, r"\?x3x16x16; 1x3x16x15"),
        ({"image": np.zeros((1, 3, 16, 16), np.float64)}, "float32; float64"),
        ({"image": np.zeros((1, 16, 16, 3), np.float32).transpose(0, 3, 1, 2)}, "contiguous"),
    ],
)
def test_feeds_that_do_not_fit_are_refused(folder: Path, feeds: Dict[str, np.ndarray], words: str):
    with opened(folder) as runner:
        for call in (runner.bind, runner.infer, runner.slots, runner.profile):
            with pytest.raises(UsageError, match=words):
                call(feeds)


def test_a_plan_for_each_batch(trt: Any, surface: str, onnx_file: Path, tmp_path: Path):
    told = plan(surface, onnx_file, tmp_path, (1, 4), split_batches=True)
    assert told["files"] == ["model-b1.plan", "model-b4.plan"]
    with opened(tmp_path, "model-b1.plan", plans=told["options"]["plans"]) as runner:
        assert runner.batches == (1, 4)
        assert runner.inputs[0].shape == (None, 3, 16, 16) and runner.outputs[0].shape == (None, 10)
        for batch in (4, 1):
            close(runner.bind(images(batch))(), expected(onnx_file, images(batch)))
        with pytest.raises(UsageError, match="serves batch 1, 4, not 3"):
            runner.bind(images(3))
    with opened(tmp_path, "model-b4.plan") as runner:
        assert runner.batches == (4,)
    (tmp_path / "model-b4.plan").write_bytes(b"x")
    with pytest.raises(IncompatibleError, match=r"model-b4\.plan"):
        opened(tmp_path, "model-b1.plan", plans=told["options"]["plans"])


def test_int8_runs_the_pairs(trt: Any, surface: str, graph_file: Callable[..., Path], tmp_path: Path):
    onnx = graph_file(quantize=True)
    plan(surface, onnx, tmp_path, (1, 4), "int8", int8_mode="explicit")
    with opened(tmp_path) as runner:
        close(runner.bind(images(4))(), expected(onnx, images(4)), 0.05)
        assert runner.achieved().get("int8", 0) >= 3


def another_version(content: bytes) -> bytes:
    return content[:4] + bytes([9, 0]) + content[6:]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda content: content[: len(content) // 2], "magicTag"),
        (lambda content: content[:10], "magicTag"),
        (lambda content: b"", "magicTag"),
        (lambda content: content[:-1] + bytes([content[-1] ^ 1]), "magicTag"),
        (another_version, "Version tag does not match"),
    ],
)
def test_a_plan_that_tensorrt_refuses(folder: Path, damage: Callable[[bytes], bytes], words: str):
    path = folder / "model.plan"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(IncompatibleError, match=words) as raised:
        opened(folder)
    assert "model.plan" in raised.value.message and raised.value.hint == "build the bundle again"


def test_a_plan_of_another_gpu(folder: Path, cuda_ledger: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FAKECUDA_CC", "7.2")
    cuda_ledger.fakecuda_configure()
    try:
        with pytest.raises(IncompatibleError, match=r"incompatible device.*7\.2.*please rebuild"):
            opened(folder)
    finally:
        monkeypatch.delenv("FAKECUDA_CC")
        cuda_ledger.fakecuda_configure()


def test_what_is_no_plan_or_not_there(folder: Path, onnx_file: Path):
    with pytest.raises(ModelError, match="TensorRT runs plans"):
        opened(onnx_file.parent, onnx_file.name)
    with pytest.raises(FileNotFoundError):
        opened(folder, "none.plan")
    with pytest.raises(IncompatibleError, match="there is no GPU 7"):
        opened(folder, gpu=7)


def without_memory(driver: Any, job: Callable[[], None]) -> int:
    """Let each allocation of a job fail in turn; gives how many there were.

    Raises:
        AssertionError: It did not fail.
    """
    job()  # also starts the driver, which reads what fails anew
    for attempt in range(1, 100):
        driver.fakecuda_set_oom(attempt, -1)  # pycuda tries again once it has collected garbage
        try:
            job()
        except OptimizeError:
            continue
        finally:
            tried = driver.fakecuda_allocation_attempts()
            driver.fakecuda_set_oom(0, 0)
        assert tried < attempt, f"allocation {attempt} of {tried} failed unnoticed"
        return attempt - 1
    raise AssertionError("it never succeeds")


@pytest.mark.parametrize("io", ["copy", "zero-copy"])
def test_whichever_allocation_fails_everything_is_freed(folder: Path, onnx_file: Path, io: str, driver: Any):
    def job() -> None:
        with opened(folder, io=io) as runner:
            close(runner.bind(images(1))(), expected(onnx_file, images(1)))
            runner.slots(images(4))

    assert without_memory(driver, job) >= (8 if io == "copy" else 4)
    assert not any(held(driver).values())


def test_a_binding_that_fails_leaves_nothing_and_a_smaller_one_works(folder: Path, onnx_file: Path, driver: Any):
    with opened(folder) as runner:
        runner.infer(images(1))
        runner.infer(images(4))
        before = held(driver)
        for job in (runner.bind, runner.profile):
            for attempt in (1, 2, 3, 4):
                driver.fakecuda_set_oom(attempt, -1)
                with pytest.raises(OptimizeError):
                    job(images(4))
                driver.fakecuda_set_oom(0, 0)
                assert held(driver) == before
        close(runner.infer(images(4)), expected(onnx_file, images(4)))


def test_a_refused_execution_frees_its_binding(folder: Path, driver: Any, monkeypatch: pytest.MonkeyPatch):
    with opened(folder) as runner:
        runner.infer(images(1))
        before = held(driver)
        context = runner._bindings[0].context
        with monkeypatch.context() as patch:
            patch.setattr(type(context), "execute_async_v3", lambda self, stream_handle: False)
            with pytest.raises(OptimizeError, match="does not execute batch 1"):
                runner.bind(images(1))
        del context
        assert held(driver) == before


def test_an_exception_half_way_goes_out_and_everything_is_freed(folder: Path):
    with pytest.raises(KeyboardInterrupt), opened(folder, cuda_graph=True) as runner:
        runner.bind(images(1))()
        for slot in runner.slots(images(4), graph=True):
            slot.enqueue()  # and nobody waits
        raise KeyboardInterrupt


def test_work_that_nobody_waited_for_is_done_before_its_context_goes(folder: Path, capfd: pytest.CaptureFixture[str]):
    runner = opened(folder)
    for slot in runner.slots(images(4)):
        slot.enqueue()
    runner.close()
    assert "destroyed before its work was done" not in capfd.readouterr().err


def test_a_device_that_fails_is_told_once_and_everything_is_freed(folder: Path, cuda_ledger: Any):
    """An error of the device is sticky: closing meets it again, but what went out first is not hidden by it."""
    with pytest.raises(ValueError, match="mine"), opened(folder) as runner:
        query = runner.bind(images(1))
        feeds_pointer = runner._bindings[0].addresses["image"]
        runner._plans[0].bind(runner._bindings[0].context, {"image": feeds_pointer + (1 << 20)})  # not ours
        for _ in range(2):
            with pytest.raises(CudaError, match="illegal"):
                query()
        raise ValueError("mine")


def test_after_closing_queries_say_so(folder: Path):
    runner = opened(folder)
    query = runner.bind(images(1))
    runner.close()
    with pytest.raises(CudaError, match="closed"):
        query()


def test_profile_names_every_layer_and_disturbs_no_query(folder: Path, onnx_file: Path, driver: Any):
    feeds = images(4)
    with opened(folder, cuda_graph=True) as runner:
        query = runner.bind(feeds)
        before = held(driver)
        table = runner.profile(feeds, 5)
        assert held(driver) == before
        assert len(table) >= 4 and all(one["ms"] >= 0 for one in table)
        assert {one["precision"] for one in table if one["type"]} == {"f32"}
        assert len({one["name"] for one in table}) == len(table)
        close(query(), expected(onnx_file, feeds))
        close(runner.bind(images(4, 3))(), expected(onnx_file, images(4, 3)))  # the profile's context is free again
        assert {one["name"] for one in runner.profile(images(4), 1)} == {one["name"] for one in table}


def test_achieved_counts_what_computes(folder: Path):
    with opened(folder) as runner:
        assert set(runner.achieved()) == {"f32"} and runner.achieved()["f32"] >= 3
