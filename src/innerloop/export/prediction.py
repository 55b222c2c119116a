"""An adapted predictor as an ONNX graph, or as a program of PyTorch."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from innerloop.export.check import Exported, compared, count, run_graph, session_of, written
from innerloop.export.errors import ExportError
from innerloop.export.graph import Graph
from innerloop.export.pieces import one_query_at_a_time, predictions
from innerloop.export.trace import record
from innerloop.export.translate import Value, translate
from innerloop.export.writer import each_query
from innerloop.learner.predictor import Predictor
from innerloop.params import Params, flattened

__all__ = ["predictor", "program"]


def predictor(adapted: Predictor, file: str | Path, *, queries: int | None = None, tolerance: float = 1e-4) -> Exported:
    """Write an adapted predictor as an ONNX graph: queries in, predictions out.

    The graph holds the weights that the adaptation led to. After it is written, it runs here, and its results are
    compared with the predictor's.

    Input: ``query_x`` ``[Q, ...]``, prepared as the learner's preprocessing prepares inputs. Outputs for classes:
    ``logits`` and ``probabilities``, each ``[Q, ways]``. A class without support examples has probability 0. Output for
    numbers: ``outputs`` ``[Q, ...]``. Where batch norm needs the support set to predict (the mode ``inductive``), the
    file holds the support inputs.

    Args:
        adapted: the predictor, from :meth:`innerloop.Learner.adapt`.
        file: the file to write.
        queries: the number of queries, if it is to be fixed.
        tolerance: how far the graph's results may be from the predictor's, relative to the largest number of that
            result where this is above 1.

    Returns:
        The file, its inputs and outputs, and the largest difference that was measured.

    Raises:
        ExportError: the network cannot be exported, or the results differ.
        MissingExtraError: a library is missing.

    Example:
        >>> import tempfile, innerloop as il
        >>> learner = il.Learner(il.nets.mlp(2, 3, (8,)), il.maml(inner_lr=0.1, inner_steps=2))
        >>> adapted = learner.adapt(torch.randn(6, 2), torch.arange(6) % 3)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     exported = il.export.predictor(adapted, folder + "/predictor.onnx")
        >>> exported.inputs, exported.outputs, exported.difference < 1e-4
        (('query_x',), ('logits', 'probabilities'), True)
    """
    module = _Predictions(adapted)
    graph, support_x, alone = Graph(), adapted._support_x, one_query_at_a_time(adapted._model)
    name = graph.add_input("query_x", support_x.dtype, [queries or "query", *support_x.shape[1:]])
    tensors = (module.params, module.constants, support_x)
    stored = [
        *(graph.constant(tensor, name=f"net.{key}") for key, tensor in module.params.items()),
        *(graph.constant(tensor) for tensor in flattened(tensors[1:])),
    ]

    def write(graph: Graph, query: str) -> dict[str, Value]:
        example = support_x.new_zeros(1 if alone else queries or 1, *support_x.shape[1:])
        free = {} if alone or queries is not None else {len(tensors): "query_x"}
        recorded = record(module.of, (*tensors, example), free, "the prediction")
        found: dict[str, Value] = translate(recorded, [*stored, query], graph, "the prediction")
        return found

    found = each_query(graph, name, write) if alone else write(graph, name)
    for kind, value in found.items():
        graph.add_output(value.name, kind, value.dtype, value.shape)
    model = graph.model(f"Predicts for one task, with batch norm {adapted._model.norm}.", {"norm": adapted._model.norm})
    data = model.SerializeToString()
    session, difference = session_of(data), 0.0
    for number in [queries] if queries is not None else [3, 1]:
        query_x = support_x.flip(0)[torch.arange(number) % len(support_x)]
        try:
            expected = _expected(adapted, query_x)
        except ValueError:
            if number == 1 and queries is None:
                continue  # the network itself refuses a single query
            raise
        difference = max(difference, compared(run_graph(session, {"query_x": query_x}), expected))
    if difference > tolerance:
        raise ExportError(
            f"the graph's predictions differ from the predictor's by {difference:.1e}, more than {tolerance:.0e}; "
            "please report this with the network"
        )
    return written(Path(file), data, session, difference, count(model.graph))


def program(adapted: Predictor, *, queries: int | None = None) -> torch.export.ExportedProgram:
    """An adapted predictor as a program of ``torch.export``, which runs without this library.

    ``torch.export.save`` writes it to a file, and AOTInductor and ExecuTorch compile it.

    Args:
        adapted: the predictor, from :meth:`innerloop.Learner.adapt`.
        queries: the number of queries, if it is to be fixed. Where each query is normalised with the support set (the
            mode ``inductive`` of a network with batch norm), it must be 1, which is the default there.

    Returns:
        A program from queries ``[Q, ...]`` to a dict, with the outputs of :func:`predictor`.

    Raises:
        ExportError: ``torch.export`` cannot export the network, or the number of queries must be 1.

    Example:
        >>> import innerloop as il
        >>> learner = il.Learner(il.nets.mlp(2, 3, (8,)), il.maml(inner_lr=0.1, inner_steps=2))
        >>> adapted, x = learner.adapt(torch.randn(6, 2), torch.arange(6) % 3), torch.randn(4, 2)
        >>> probabilities = program(adapted).module()(x)["probabilities"]
        >>> torch.allclose(probabilities, adapted.predict_proba(x))
        True
    """
    import torch.export  # takes a while, and nothing else needs it

    alone = one_query_at_a_time(adapted._model)
    if alone and queries not in (None, 1):
        raise ExportError(
            f"queries is {queries}; in the mode 'inductive' a program takes one query at a time: leave it out or give 1"
        )
    fixed = 1 if alone else queries
    x = adapted._support_x
    example = x[torch.arange(fixed or max(2, len(x)), device=x.device) % len(x)]
    free = None if fixed is not None else ({0: torch.export.Dim("query", min=1, max=2**31 - 1)},)
    try:
        with warnings.catch_warnings():
            # Some releases warn of a module that holds no parameters of its own: each call is given them.
            warnings.filterwarnings("ignore", message="Unable to find the path of the module")
            made = torch.export.export(_Predictions(adapted), (example,), dynamic_shapes=free, strict=False)
        found = made.module()(example)
    except Exception as error:
        said = str(error).strip().partition("\n")[0]
        raise ExportError(f"torch.export cannot export the network: {said}") from error
    if (difference := compared(found, _expected(adapted, example))) > 1e-4:
        raise ExportError(f"the program's predictions differ from the predictor's by {difference:.1e}")
    return made


class _Predictions(nn.Module):
    """A predictor as a module: queries in, predictions out."""

    def __init__(self, adapted: Predictor) -> None:
        super().__init__()
        self._model, self._classes = adapted._model, adapted.classes
        self.params, self.constants = dict(adapted.params), dict(adapted._model.constants)
        self._names: dict[str, str] = {}
        for kind, tensors in (("params", self.params), ("constants", self.constants)):
            for name, tensor in tensors.items():
                buffer = f"{kind}_{len(self._names)}"
                self._names[buffer] = name
                self.register_buffer(buffer, tensor.detach())
        self.register_buffer("support", adapted._support_x)
        if self._classes is not None:
            self.register_buffer("seen", torch.arange(int(self._classes.max()) + 1)[:, None].eq(self._classes).any(1))

    def forward(self, query_x: Tensor) -> Params:
        own: dict[str, Params] = {"params": {}, "constants": {}}
        for buffer, name in self._names.items():
            own[buffer.partition("_")[0]][name] = self.get_buffer(buffer)
        return self.of(own["params"], own["constants"], self.get_buffer("support"), query_x)

    def of(self, params: Params, constants: Params, support_x: Tensor, query_x: Tensor) -> Params:
        """The predictions as a function of all tensors."""
        seen = None if self._classes is None else self._occurring
        return predictions(self._model.with_constants(constants), params, query_x, support_x, seen)

    def _occurring(self, ways: int) -> Tensor:
        return F.pad(self.get_buffer("seen"), (0, ways - self.get_buffer("seen").shape[0]))


def _expected(adapted: Predictor, query_x: Tensor) -> Params:
    """What the predictor gives. Classes beyond the task's have probability 0."""
    outputs = adapted.outputs(query_x)
    if adapted.classes is None:
        return {"outputs": outputs}
    found = adapted.predict_proba(query_x)
    return {"logits": outputs, "probabilities": F.pad(found, (0, outputs.shape[-1] - found.shape[-1]))}
