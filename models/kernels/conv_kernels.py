"""Machine code for small convolutions, generated for the CPU it runs on.

The libraries under PyTorch reach a fifth of a core's arithmetic on convolutions of a few channels:
they put channels into the SIMD lanes and find too few. Here the lanes hold images: a layer's
activations lie as (C, pixels, N) with the batch innermost, each weight is multiplied with 16 images
at once, and a block of sums stays in registers while its inputs stream by.

Two kernels are enough. A list says which pixel feeds which through which tap
(`models.kernels.conv_plan.Plan`). So strides, paddings, transposed convolutions and gradients with
respect to the input all use the first kernel, with other lists:

    gather   y[co, d, :] = bias[co] + sum over (s, k) feeding d, ci:  w[k, ci, co] * x[ci, s, :]
    reduce   g[k, ci, co] = sum over (s, d) joined by k:  sum(x[ci, s, :] * y[co, d, :])

LLVM (`llvmlite`) makes the code for a block of channels, once a process and in about 25 ms. It runs
on one thread, without the interpreter's lock. ``ragged`` code also takes batches that do not fill
their last vector.

Shape legend: N images, ci/co input and output channels, s/d source and destination pixels,
k tap: an element of the kernel, 9 of them in a 3x3 one.
"""

from __future__ import annotations

from functools import cache

from llvmlite import ir

from models.kernels.llvm import F32, I64, LANES, REGISTERS, Code, Kernel

MANY = REGISTERS == 32
GATHERED = 12 if MANY else 6  # output channels in one block of `gather`, at most
REDUCED = 5 if MANY else 3  # channels on either side of a block of `reduce`, at most


def blocks(channels: int, most: int) -> list[tuple[int, int]]:
    """Cut ``channels`` into blocks of nearly equal size: (size, how many), two entries at most.

    >>> blocks(20, 12), blocks(9, 5)
    ([(10, 2)], [(5, 1), (4, 1)])
    """
    count = -(-channels // most)
    size, larger = divmod(channels, count)
    return [(s, n) for s, n in ((size + 1, larger), (size, count - larger)) if n]


def gathered_lanes(size: int) -> int:
    """Return how many images `gather` takes at once, so that a block's sums stay in registers."""
    return LANES * next(v for v in (8, 4, 2, 1) if v * (size + 1) <= (28 if MANY else 15))


@cache
def gather_kernel(size: int, ragged: bool) -> Kernel:
    """Compile ``gather`` for ``count`` blocks of ``size`` output channels.

    (x, y, w, bias, starts, sources, taps, count, pixels, ci, co, x_step, y_step, n): addresses of
    float32 x (ci, S, n), y (co, pixels, n), w (K, ci, co), bias (co,) and of int64 lists; starts
    (pixels + 1,) cuts sources and taps by destination; steps are floats between two channels.
    """
    code = Code(addresses=7, numbers=7)
    x, y, w, bias, starts, sources, taps = code.addresses
    count, pixels, ci, co, x_step, y_step, n = code.numbers
    vectors = gathered_lanes(size) // LANES
    sums = [[code.register() for _ in range(vectors)] for _ in range(size)]

    def pixel(d: ir.Value, first: ir.Value, lane: ir.Value, width: int, masked: bool) -> None:
        """Compute one destination pixel, ``size`` channels from ``first``, ``width`` vectors of
        images."""
        mask = code.below(lane, n) if masked else None
        for r in range(size):
            start = code.splat(code.load(F32, bias, code.add(first, r)))
            for v in range(width):
                code.store(start, sums[r][v])
        begin = code.load(I64, starts, d)
        end = code.load(I64, starts, code.add(d, 1))
        with code.loop(begin, end) as t:
            source = code.at(x, code.add(code.mul(code.load(I64, sources, t), n), lane))
            tap = code.mul(code.mul(code.load(I64, taps, t), ci), co)
            weights = code.at(w, code.add(tap, first))
            with code.loop(0, ci) as c:
                row = code.at(source, code.mul(c, x_step))
                values = [code.vector(row, v * LANES, mask) for v in range(width)]
                for r in range(size):
                    weight = code.splat(code.load(F32, weights, code.add(code.mul(c, co), r)))
                    for v in range(width):
                        code.multiply_add(weight, values[v], sums[r][v])
        target = code.at(y, code.add(code.mul(d, n), lane))
        for r in range(size):
            row = code.at(target, code.mul(code.add(first, r), y_step))
            for v in range(width):
                code.put_vector(code.value(sums[r][v]), row, v * LANES, mask)

    whole = code.multiple(n, vectors * LANES) if ragged else n
    with code.loop(0, count) as block, code.loop(0, pixels) as d:
        first = code.mul(block, size)
        with code.loop(0, whole, vectors * LANES) as lane:
            pixel(d, first, lane, vectors, masked=False)
        if ragged:
            with code.loop(whole, n, LANES) as lane:  # what is left over
                pixel(d, first, lane, 1, masked=True)
    return code.compiled()


@cache
def reduce_kernel(ci_size: int, co_size: int, ragged: bool) -> Kernel:
    """Compile ``reduce`` for ci_count x co_count blocks of channels; it adds to g.

    (x, y, g, sources, targets, edges, taps, groups, ci_count, co_count, ci, co, x_step, y_step, n):
    the same as for `gather_kernel`, and g (K, ci, co). Pairs of pixels come in ``groups`` of one
    tap each, cut by edges (groups + 1,) and so small that their rows stay in the cache.
    """
    code = Code(addresses=7, numbers=8)
    x, y, g, sources, targets, edges, taps = code.addresses
    groups, ci_count, co_count, ci, co, x_step, y_step, n = code.numbers
    sums = [[code.register() for _ in range(co_size)] for _ in range(ci_size)]
    whole = code.multiple(n, LANES) if ragged else n

    def add_up(xs: ir.Value, ys: ir.Value, lane: ir.Value, mask: ir.Value | None) -> None:
        left = [code.vector(code.at(xs, code.mul(x_step, i)), lane, mask) for i in range(ci_size)]
        right = [code.vector(code.at(ys, code.mul(y_step, o)), lane, mask) for o in range(co_size)]
        for i in range(ci_size):
            for o in range(co_size):
                code.multiply_add(left[i], right[o], sums[i][o])

    with (
        code.loop(0, groups) as group,
        code.loop(0, ci_count) as ci_block,
        code.loop(0, co_count) as co_block,
    ):
        i_first, o_first = code.mul(ci_block, ci_size), code.mul(co_block, co_size)
        for row in sums:
            for total in row:
                code.store(code.zero, total)
        begin = code.load(I64, edges, group)
        end = code.load(I64, edges, code.add(group, 1))
        with code.loop(begin, end) as pair:
            source = code.mul(code.load(I64, sources, pair), n)
            target = code.mul(code.load(I64, targets, pair), n)
            xs = code.at(x, code.add(source, code.mul(i_first, x_step)))
            ys = code.at(y, code.add(target, code.mul(o_first, y_step)))
            with code.loop(0, whole, LANES) as lane:
                add_up(xs, ys, lane, None)
            if ragged:
                with code.loop(whole, n, LANES) as lane:
                    add_up(xs, ys, lane, code.below(lane, n))
        tap = code.mul(code.load(I64, taps, group), ci)
        for i in range(ci_size):
            row = code.mul(code.add(tap, code.add(i_first, i)), co)
            for o in range(co_size):
                place = code.at(g, code.add(row, code.add(o_first, o)))
                code.add_sum(code.value(sums[i][o]), place)
    return code.compiled()
