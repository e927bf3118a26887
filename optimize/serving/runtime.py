"""The runtime through which MLServer asks an engine; imported where MLServer is, and nowhere else."""

from __future__ import annotations

import asyncio
from typing import Any, Dict, List

from mlserver import MLModel, ModelSettings
from mlserver.errors import InferenceError, MLServerError, ModelNotFound
from mlserver.handlers import custom_handler
from mlserver.repository import ModelRepository
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput

from engines import kserve
from engines.errors import DamagedError, IncompatibleError, UsageError
from optimize.serving.models import VERSION, Model

MODELS: Dict[str, Model] = {}
"""What is open, by name: MLServer makes its objects itself, from words."""

LOADED: Dict[str, Model] = {}
"""Those that answer: MLServer's repository API lets go of one, and takes it back."""

_HOLDERS: Dict[str, Runtime] = {}
"""Which object of MLServer's a name was loaded by last: to load a model anew, it loads another one and then unloads
the one before."""


class Runtime(MLModel):  # type: ignore[misc]  # MLServer is not there where types are checked
    """One model: its engine is open already."""

    async def load(self) -> bool:
        """See `MLModel.load`."""
        LOADED[self.name], _HOLDERS[self.name] = _model(self.name), self
        return True

    async def unload(self) -> bool:
        """See `MLModel.unload`; the engine stays open until the server ends."""
        if _HOLDERS.get(self.name) is self:
            del LOADED[self.name], _HOLDERS[self.name]
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Answer numbers in JSON, or the lists that MLServer makes of gRPC's bytes."""
        model = _model(self.name)
        try:
            feeds = kserve.decode([_tensor(one) for one in payload.inputs], memoryview(b""))
            known = [one.name for one in model.outputs]
            asked = [one.name for one in payload.outputs or ()] or known
            if not set(asked) <= set(known):
                raise UsageError(f"the outputs are {', '.join(known)}, not {', '.join(asked)}")
            found = await asyncio.wrap_future(model.batcher.submit(feeds))
        except (UsageError, DamagedError) as error:
            raise InferenceError(error.message) from None
        except IncompatibleError as error:
            raise MLServerError(error.message, 503) from None
        except Exception as error:  # what a backend raises is told to the one that asked
            raise MLServerError(str(error) or type(error).__name__, 500) from None
        outputs = [
            ResponseOutput(
                name=name,
                datatype=kserve.DATATYPES[found[name].dtype.name],
                shape=list(found[name].shape),
                data=found[name].reshape(-1).tolist(),
            )
            for name in dict.fromkeys(asked)
        ]
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=outputs)

    @custom_handler(rest_path="/v2/models/{model_name}/stats", rest_method="GET")  # type: ignore[misc]
    async def stats(self, model_name: str) -> Dict[str, Any]:
        """Triton's statistics of a model."""
        return _model(model_name).batcher.statistics.to_json(model_name, VERSION)

    @custom_handler(rest_path="/v2/models/{model_name}/config", rest_method="GET")  # type: ignore[misc]
    async def config(self, model_name: str) -> Dict[str, Any]:
        """Triton's configuration of a model."""
        return _model(model_name).config


class Repository(ModelRepository):  # type: ignore[misc]  # MLServer is not there where types are checked
    """The models that were opened, and no others: MLServer's own looks for files, with code in them, in a folder."""

    def __init__(self, root: str) -> None:
        self._root = root

    async def list(self) -> List[ModelSettings]:
        """Every model."""
        return [settings(model) for model in MODELS.values()]

    async def find(self, name: str) -> List[ModelSettings]:
        """The model of a name."""
        return [settings(_model(name))]


def settings(model: Model) -> ModelSettings:
    """A model in MLServer's words."""
    return ModelSettings(
        name=model.name,
        implementation=Runtime,
        platform=model.platform,
        versions=[VERSION],
        inputs=[_metadata(one) for one in model.inputs],
        outputs=[_metadata(one) for one in model.outputs],
        parameters={"version": VERSION, "uri": str(model.bundle)},
    )


def _metadata(one: Any) -> Dict[str, Any]:
    shape = [-1 if size is None else size for size in one.shape]
    return {"name": one.name, "datatype": kserve.DATATYPES[one.dtype], "shape": shape}


def _model(name: str) -> Model:
    if name not in MODELS:
        raise ModelNotFound(name)
    return MODELS[name]


def _tensor(one: Any) -> Dict[str, Any]:
    data = one.data
    for root in ("root", "__root__"):  # of pydantic 2 and 1
        data = getattr(data, root, data)
    datatype = getattr(one.datatype, "value", one.datatype)  # of MLServer 1.4 an enumeration's
    return {"name": one.name, "datatype": datatype, "shape": list(one.shape), "data": data}
