"""A small assembler: functions of vector instructions, made by LLVM for the CPU at hand.

    code = Code(addresses=2, numbers=1)  # copy(x, y, n): y[:n] = x[:n], n a multiple of LANES
    (x, y), (n,) = code.addresses, code.numbers
    with code.loop(0, n, LANES) as i:
        code.put_vector(code.vector(x, i), y, i)
    copy = code.compiled()
    copy(source.data_ptr(), target.data_ptr(), 256)

The kernels of `models.kernels.conv_kernels` are written in it. Integers may be Python's or values
of the function; a register is a stack slot, which LLVM turns into a vector register.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import llvmlite.binding as llvm
from llvmlite import ir

F32, I64, I32, POINTER = ir.FloatType(), ir.IntType(64), ir.IntType(32), ir.PointerType()

Kernel = Callable[..., None]
"""A compiled function that takes addresses, then integers. Other threads may run meanwhile."""

llvm.initialize_native_target()
llvm.initialize_native_asmprinter()
_FEATURES = llvm.get_host_cpu_features()
_ARM = llvm.get_process_triple().startswith(("arm64", "aarch64"))
LANES = 16 if _FEATURES.get("avx512f") else 8 if _FEATURES.get("avx2") else 4
"""float32 numbers in one vector register."""
REGISTERS = 32 if LANES == 16 or _ARM else 16

_VECTOR = ir.VectorType(F32, LANES)
_FIRST_LANE = ir.Constant(ir.VectorType(I32, LANES), [0] * LANES)  # a shuffle's: all lanes from it
_alive: list[llvm.ExecutionEngine] = []  # code is gone when its engine is collected


class Code:
    """A function under construction: the few instructions that the kernels are made of."""

    def __init__(self, *, addresses: int, numbers: int) -> None:
        self.module = ir.Module()
        self.module.triple = llvm.get_process_triple()
        kind = ir.FunctionType(ir.VoidType(), [POINTER] * addresses + [I64] * numbers)
        self.function = ir.Function(self.module, kind, "kernel")
        self.addresses: Sequence[ir.Value] = self.function.args[:addresses]
        self.numbers: Sequence[ir.Value] = self.function.args[addresses:]
        for address in self.addresses:
            address.add_attribute("noalias")
        self.entry = ir.IRBuilder(self.function.append_basic_block("entry"))
        self.code = ir.IRBuilder(self.function.append_basic_block("start"))
        self.zero = ir.Constant(_VECTOR, [0.0] * LANES)

    def register(self) -> ir.Value:
        return self.entry.alloca(_VECTOR)

    def store(self, value: ir.Value, register: ir.Value) -> None:
        self.code.store(value, register)

    def value(self, register: ir.Value) -> ir.Value:
        return self.code.load(register, typ=_VECTOR)

    def add(self, a: ir.Value, b: ir.Value | int) -> ir.Value:
        return self.code.add(a, _as_constant(b))

    def mul(self, a: ir.Value, b: ir.Value | int) -> ir.Value:
        return self.code.mul(a, _as_constant(b))

    def multiple(self, a: ir.Value, of: int) -> ir.Value:
        """Return the largest multiple of ``of`` that is not above ``a``."""
        return self.code.sub(a, self.code.urem(a, _as_constant(of)))

    def at(self, address: ir.Value, offset: ir.Value | int, kind: ir.Type = F32) -> ir.Value:
        return self.code.gep(address, [_as_constant(offset)], source_etype=kind)

    def load(self, kind: ir.Type, address: ir.Value, offset: ir.Value | int) -> ir.Value:
        return self.code.load(self.at(address, offset, kind), typ=kind)

    def splat(self, scalar: ir.Value) -> ir.Value:
        """Return a vector with ``scalar`` in every lane."""
        undefined = ir.Constant(ir.VectorType(scalar.type, LANES), ir.Undefined)
        first = self.code.insert_element(undefined, scalar, ir.Constant(I32, 0))
        return self.code.shuffle_vector(first, undefined, _FIRST_LANE)

    def below(self, lane: ir.Value, n: ir.Value) -> ir.Value:
        """Return the mask of the lanes from ``lane`` on that are below ``n``."""
        counted = ir.Constant(ir.VectorType(I64, LANES), list(range(LANES)))
        return self.code.icmp_signed("<", counted, self.splat(self.code.sub(n, lane)))

    def vector(
        self, address: ir.Value, offset: ir.Value | int, mask: ir.Value | None = None
    ) -> ir.Value:
        """Load `LANES` floats from ``address`` + offset; zeros outside of the mask."""
        place = self.at(address, offset)
        if mask is None:
            return self.code.load(place, typ=_VECTOR, align=4)
        kinds = [POINTER, I32, mask.type, _VECTOR]
        masked = self._intrinsic(f"masked.load.v{LANES}f32.p0", _VECTOR, kinds)
        return self.code.call(masked, [place, ir.Constant(I32, 4), mask, self.zero])

    def put_vector(
        self,
        value: ir.Value,
        address: ir.Value,
        offset: ir.Value | int,
        mask: ir.Value | None = None,
    ) -> None:
        place = self.at(address, offset)
        if mask is None:
            self.code.store(value, place, align=4)
            return
        kinds = [_VECTOR, POINTER, I32, mask.type]
        masked = self._intrinsic(f"masked.store.v{LANES}f32.p0", ir.VoidType(), kinds)
        self.code.call(masked, [value, place, ir.Constant(I32, 4), mask])

    def multiply_add(self, a: ir.Value, b: ir.Value, register: ir.Value) -> None:
        """Do register += a * b, with one rounding where the CPU can."""
        fused = ("contract",)
        product = self.code.fmul(a, b, flags=fused)
        self.store(self.code.fadd(self.value(register), product, flags=fused), register)

    def add_sum(self, vector: ir.Value, place: ir.Value) -> None:
        """Add all lanes of ``vector`` to the float at ``place``."""
        total = self._intrinsic(f"vector.reduce.fadd.v{LANES}f32", F32, [F32, _VECTOR])
        start = self.code.load(place, typ=F32)
        self.code.store(self.code.call(total, [start, vector], fastmath=("reassoc",)), place)

    @contextmanager
    def loop(
        self, start: ir.Value | int, stop: ir.Value | int, step: int = 1
    ) -> Iterator[ir.Value]:
        """Loop ``for index in range(start, stop, step)``; the ``with`` block is its body."""
        before = self.code.block
        head, body, after = (self.function.append_basic_block() for _ in range(3))
        self.code.branch(head)
        self.code.position_at_end(head)
        index = self.code.phi(I64)
        index.add_incoming(_as_constant(start), before)
        self.code.cbranch(self.code.icmp_signed("<", index, _as_constant(stop)), body, after)
        self.code.position_at_end(body)
        yield index
        index.add_incoming(self.add(index, step), self.code.block)
        self.code.branch(head)
        self.code.position_at_end(after)

    def compiled(self) -> Kernel:
        """Return the finished function; this `Code` is then used up."""
        self.code.ret_void()
        self.entry.branch(self.function.blocks[1])
        # when LLVM tunes for some Intel CPUs, it would else halve vectors, and spill sums
        width = f') "min-legal-vector-width"="{32 * LANES}"\n{{'
        text = str(self.module).replace(")\n{", width, 1)
        machine = llvm.Target.from_default_triple().create_target_machine(
            cpu=llvm.get_host_cpu_name(), features=_FEATURES.flatten(), opt=3
        )
        module = llvm.parse_assembly(text)
        options = llvm.create_pipeline_tuning_options(speed_level=2)
        options.loop_vectorization = options.slp_vectorization = False  # done by hand here
        passes = llvm.create_pass_builder(machine, options)
        passes.getModulePassManager().run(module, passes)
        engine = llvm.create_mcjit_compiler(module, machine)
        engine.finalize_object()
        _alive.append(engine)
        kinds = [ctypes.c_void_p] * len(self.addresses) + [ctypes.c_int64] * len(self.numbers)
        return ctypes.CFUNCTYPE(None, *kinds)(engine.get_function_address("kernel"))

    def _intrinsic(self, name: str, result: ir.Type, kinds: list[ir.Type]) -> ir.Function:
        name = f"llvm.{name}"
        if name in self.module.globals:
            return self.module.globals[name]
        return ir.Function(self.module, ir.FunctionType(result, kinds), name)


def _as_constant(value: ir.Value | int) -> ir.Value:
    return ir.Constant(I64, value) if isinstance(value, int) else value
