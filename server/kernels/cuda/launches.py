"""The kernels, in Triton: what one launch computes. network.py launches them.

Feature maps are N × H × W × C with C a multiple of 16, in memory of a pitch that may be wider: a convolution reads the
first channels of a buffer and writes at some offset of the same or another one, so nothing is concatenated. Channels
that a network does not have are zero. Each program computes its own pixels in a fixed order, whatever else is in the
batch: so the same tile gives the same bytes alone and beside others.

Offsets of pixels are 64 bits wide: at 1920 × 1080, 16 · 64 channels of a result of four times the size are 2³¹ numbers.
"""

import triton
import triton.language as tl

_TO_EVEN = tl.constexpr(12582912.0)  # 1.5 · 2²³: floats around it have no fractions, and are rounded to even


@triton.jit(do_not_specialize=("height", "width"))
def unpack(
    samples,
    features,
    height,
    width,
    CHANNELS: tl.constexpr,
    TOP: tl.constexpr,
    STEP: tl.constexpr,
    PITCH: tl.constexpr,
    BLOCK: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Integer samples, N × H·STEP × W·STEP × CHANNELS → features in [0, 1], N × H × W × PITCH: unshuffled pixels,
    filled up with zeros. One channel stands for three. TOP: 255, or 65535 for 16 bits that are given as int16."""
    row, n = tl.program_id(1), tl.program_id(2).to(tl.int64)
    x = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    j = tl.arange(0, BLOCK)
    colour, within = j // (STEP * STEP), j % (STEP * STEP)
    line = (n * height + row) * STEP + within // STEP
    place = line[None, :] * (width * STEP) + (x * STEP)[:, None] + (within % STEP)[None, :]
    channel = colour if CHANNELS == 3 else colour * 0
    there = (x < width)[:, None] & (colour < 3)[None, :]
    value = tl.load(samples + place * CHANNELS + channel[None, :], mask=there, other=0).to(tl.int32) & TOP
    target = features + ((n * height + row) * width + x)[:, None] * PITCH + j[None, :]
    tl.store(target, value.to(tl.float32) / TOP, mask=(x < width)[:, None] & (j < PITCH)[None, :])


@triton.jit(do_not_specialize=("height", "width", "rows", "steps"))
def convolve(
    x,
    weight,
    bias,
    slope,
    near,
    far,
    y,
    height,
    width,
    rows,
    steps,
    CIN: tl.constexpr,
    N: tl.constexpr,
    COUT: tl.constexpr,
    X_PITCH: tl.constexpr,
    Y_PITCH: tl.constexpr,
    Y_FIRST: tl.constexpr,
    NEAR_PITCH: tl.constexpr,
    FAR_PITCH: tl.constexpr,
    ENLARGE: tl.constexpr,
    ACTIVE: tl.constexpr,
    RESIDUALS: tl.constexpr,
    SHARE: tl.constexpr,
    COLUMNS: tl.constexpr,
    BK: tl.constexpr,
    CACHE: tl.constexpr,
):
    """A 3×3 convolution of the first CIN channels of `x`, padded with zeros, as products of matrices: COLUMNS pixels of
    a row × BK channels times BK × N. COUT ≤ N channels of the result are kept.

    A program computes `rows` rows from top to bottom. Each row of `x` goes into three rows of the result, whose sums it
    holds: so a pixel is loaded three times, not nine times, and is in registers for three products. CACHE: ".ca" for
    loads of pixels that go through the multiprocessor's own cache. The three loads of a pixel follow each other, so it
    has the pixel for two of them; by default they all come from the L2.

    `weight`: 9 × CIN × N. `slope`: of each channel, for negative results, where ACTIVE. RESIDUALS: 1 for
    `near + SHARE · result`, 2 for `far + SHARE · (near + SHARE · result)`; each has COUT channels at the start of its
    pitch. ENLARGE: 2 for an `x` of half the size, whose pixels are repeated. `height`, `width`: of the result.

    `steps`: 3 · CIN / BK. NOTE: it is no constant, or the compiler would unroll the loop and spill registers.
    """
    n = tl.program_id(2).to(tl.int64)
    top = tl.program_id(1) * rows
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    k, channel = tl.arange(0, BK), tl.arange(0, N)
    source_height, source_width = height // ENLARGE, width // ENLARGE
    upper = tl.zeros((COLUMNS, N), tl.float32)
    middle = tl.zeros((COLUMNS, N), tl.float32)
    for row in range(top - 1, tl.minimum(top + rows, height) + 1):
        lower = tl.zeros((COLUMNS, N), tl.float32)
        line = (n * source_height + row // ENLARGE) * source_width
        for step in range(steps):
            shift, first = step % 3, step // 3 * BK
            c = column + shift - 1
            inside = (row >= 0) & (row < height) & (c >= 0) & (c < width)
            place = tl.where(inside, line + c // ENLARGE, 0)
            pixels = tl.load(x + (place * X_PITCH)[:, None] + (first + k)[None, :], cache_modifier=CACHE)
            # Not by a mask of the load: what is computed on stays in registers for wgmma, too.
            pixels = tl.where(inside[:, None], pixels, 0.0)
            part = weight + (shift * CIN + first + k)[:, None] * N + channel[None, :]
            upper = tl.dot(pixels, tl.load(part + 6 * CIN * N), upper, input_precision="ieee")
            middle = tl.dot(pixels, tl.load(part + 3 * CIN * N), middle, input_precision="ieee")
            lower = tl.dot(pixels, tl.load(part), lower, input_precision="ieee")
        if row > top:
            result = upper + tl.load(bias + channel)[None, :]
            if ACTIVE:
                result = tl.where(result > 0, result, result * tl.load(slope + channel)[None, :])
            kept = (column < width)[:, None] & (channel < COUT)[None, :]
            place = (n * height + row - 1) * width + column
            if RESIDUALS >= 1:
                beside = tl.load(near + (place * NEAR_PITCH)[:, None] + channel[None, :], mask=kept, other=0.0)
                result = result * SHARE + beside.to(tl.float32)
            if RESIDUALS == 2:
                beside = tl.load(far + (place * FAR_PITCH)[:, None] + channel[None, :], mask=kept, other=0.0)
                result = result * SHARE + beside.to(tl.float32)
            target = y + (place * Y_PITCH)[:, None] + Y_FIRST + channel[None, :]
            tl.store(target, result.to(y.dtype.element_ty), mask=kept)
        upper = middle
        middle = lower


@triton.jit(do_not_specialize=("n", "height", "width", "top", "left", "columns"))
def finish(
    features,
    samples,
    out,
    seen,
    n,
    height,
    width,
    top,
    left,
    columns,
    SCALE: tl.constexpr,
    PITCH: tl.constexpr,
    SHUFFLED: tl.constexpr,
    CHANNELS: tl.constexpr,
    TOP: tl.constexpr,
    OUT_TOP: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """The kept part of the n-th tile's result: rows from `top` on, as many as there are programs, and `columns` from
    `left` on. It is rounded and clamped to 0…OUT_TOP, or left as it is where that is 0.

    SHUFFLED: `features` is N × H × W × 3·SCALE² and is added to the repeated pixels of `samples`, as in SRVGGNet; else
    it is the result. `samples`: as for `unpack`. `seen`: three int32 for each tile, zero before: whether a result was
    not finite, and the bits of the largest result and of the largest sample (0…1) as float32.
    """
    tile = n.to(tl.int64)
    x = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inside = x < columns
    row, column = top + tl.program_id(1), left + x
    source_row, source_column = row // SCALE, column // SCALE
    pixel = (tile * height + source_row) * width + source_column
    broken = tl.zeros((COLUMNS,), tl.int32)
    highest, brightest = tl.zeros((COLUMNS,), tl.float32), tl.zeros((COLUMNS,), tl.float32)
    total = tl.zeros((COLUMNS,), tl.float32)
    target = out + (tl.program_id(1).to(tl.int64) * columns + x) * CHANNELS
    for c in tl.static_range(3):
        sample = tl.load(samples + pixel * CHANNELS + (c if CHANNELS == 3 else 0), mask=inside, other=0)
        source = (sample.to(tl.int32) & TOP).to(tl.float32) / TOP
        if SHUFFLED:
            place = pixel * PITCH + (c * SCALE + row % SCALE) * SCALE + column % SCALE
            value = tl.load(features + place, mask=inside, other=0.0).to(tl.float32) + source
        else:
            place = ((tile * height * SCALE + row) * (width * SCALE) + column) * PITCH + c
            value = tl.load(features + place, mask=inside, other=0.0).to(tl.float32)
        broken = broken | (tl.abs(value) > 3.0e38).to(tl.int32) | (value != value).to(tl.int32)
        highest, brightest = tl.maximum(highest, value), tl.maximum(brightest, source)
        if CHANNELS == 3:
            _store(target + c, value, inside, OUT_TOP)
        total += value
    if CHANNELS == 1:
        _store(target, total / 3, inside, OUT_TOP)
    # Positive floats have the order of their bits.
    tl.atomic_max(seen + n * 3, tl.max(broken, 0))
    tl.atomic_max(seen + n * 3 + 1, tl.max(highest, 0).to(tl.int32, bitcast=True))
    tl.atomic_max(seen + n * 3 + 2, tl.max(brightest, 0).to(tl.int32, bitcast=True))


@triton.jit
def _store(target, value, inside, OUT_TOP: tl.constexpr):
    if OUT_TOP:
        value = tl.minimum(tl.maximum(value * OUT_TOP, 0.0), OUT_TOP)
        whole = ((value + _TO_EVEN) - _TO_EVEN).to(tl.int32)
        tl.store(target, whole.to(target.dtype.element_ty), mask=inside)
    else:
        tl.store(target, value, mask=inside)
