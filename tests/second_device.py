"""A second device for a machine that has none: tensors that say they live on "meta" and hold their numbers on the CPU.

As with CUDA, an operation on tensors of both places raises, but for numbers without dimension, copies, and indices.
"""

import warnings
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from accelerate.state import AcceleratorState
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map

FAR = torch.device("meta")
aten = torch.ops.aten
BOTH_PLACES = {
    aten.copy_.default, aten._to_copy.default, aten.index.Tensor, aten.index_put_.default, aten.index_put.default}


class Far(torch.Tensor):
    "A tensor whose device is FAR; `held` has its numbers."

    @staticmethod
    def __new__(cls, held):
        return torch.Tensor._make_wrapper_subclass(
            cls, held.shape, held.stride(), held.storage_offset(), dtype=held.dtype, device=FAR,
            requires_grad=held.requires_grad)

    def __init__(self, held):
        self.held = held

    def __repr__(self):
        return f"Far({self.held})"

    def __reduce_ex__(self, protocol):
        return Far, (self.held.detach(),)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        given = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)]
        far, near = any(isinstance(x, Far) for x in given), [x for x in given if not isinstance(x, Far) and x.ndim]
        if far and near and func not in BOTH_PLACES:
            raise RuntimeError(f"Expected all tensors to be on the same device, but {func} found meta and cpu")
        to = kwargs.get("device")
        here = {"device": "cpu"} if to is not None else {}
        found = func(*tree_map(held_of, args), **tree_map(held_of, kwargs) | here)
        if func is aten._local_scalar_dense.default or (to is not None and torch.device(to).type != FAR.type):
            return found
        if func is aten.copy_.default and not isinstance(args[0], Far):
            return args[0]
        wrapped = tree_map(lambda x: Far(x) if isinstance(x, torch.Tensor) and not isinstance(x, Far) else x, found)
        return return_and_correct_aliasing(func, args, kwargs, wrapped)


def held_of(x):
    return x.held if isinstance(x, Far) else x


class Factories(TorchDispatchMode):
    "What is created on FAR, or sent there, is Far."

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, to = kwargs or {}, (kwargs or {}).get("device")
        if to is not None and torch.device(to).type == FAR.type or any(issubclass(t, Far) for t in types):
            return Far.__torch_dispatch__(func, types, args, kwargs)
        return func(*args, **kwargs)


class Functions(TorchFunctionMode):
    "torch.tensor(..., device=FAR), and autocast of convolutions and products, which torch does not do for this device."
    half = None

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            return func(*args, **kwargs | {"device": None}).to(kwargs["device"])
        if func is torch.Tensor.tolist:
            return func(args[0].cpu())
        if Functions.half and func in (F.conv2d, F.linear, torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__):
            args, kwargs = tree_map(in_half, (args, kwargs))
        return func(*args, **kwargs)


def in_half(x):
    return x.to(Functions.half) if isinstance(x, Far) and x.dtype == torch.float32 else x


class Autocast(torch.autocast):
    def __init__(self, device_type, dtype=None, enabled=True, **options):
        self.half_here = (dtype or torch.bfloat16) if enabled else None
        super().__init__("cpu", dtype, enabled=False)

    def __enter__(self):
        self.before, Functions.half = Functions.half, self.half_here
        return super().__enter__()

    def __exit__(self, *error):
        Functions.half = self.before
        return super().__exit__(*error)


@contextmanager
def second_device():
    "Accelerate trains on FAR; modules keep their parameters when they move."
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(), Functions(), Factories():
        warnings.simplefilter("ignore", UserWarning)  # of copies to "meta", which would do nothing
        patch.setattr(torch, "autocast", Autocast)
        patch.setenv("ACCELERATE_TORCH_DEVICE", FAR.type)
        AcceleratorState._reset_state(reset_partial_state=True)
        torch.__future__.set_swap_module_params_on_conversion(True)
        try:
            yield FAR
        finally:
            torch.__future__.set_swap_module_params_on_conversion(False)
            AcceleratorState._reset_state(reset_partial_state=True)
