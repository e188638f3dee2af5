"""Every tile size and threshold of the kernels, each with what it trades and what was seen.

What was seen, was seen on one core of an AMD EPYC (Zen 4, AVX-512), as in bench/README.md; what is said of AVX2, on one
of Zen 3. Where it says "Sets the order of sums", another choice changes results in their last bits.
"""

from __future__ import annotations

# ---------------------------------------------------------------------------------------------- plans

LARGEST_GROUP = 4
"""Rows with the same columns that a kernel computes at once. Every line of x that is read feeds them all: four reach
the speed of dense BLAS, and more do not pass it."""

COO_SEGMENT = 512
"""Connections of a COO segment: enough to make its carry cheap, few enough to share out among threads. Sets the order
of sums."""

BLOCK_LINES = 640
"""Lines of x that gather reads for a block of columns before it goes on to the next row, 40 KiB: about what a
first-level cache holds, which gives twice what a second-level one does. It reads four of each column of a fully
connected layer; the columns of a convolution's channel share theirs. Sets the order of sums of a convolution's dx, on
GPUs too."""

FEWEST_CONNECTIONS, MORE_CONNECTIONS = 14, 28
"""Connections of a row in a block, on average, for blocks to pay: each loads and stores the row's sums once more.
At 16, 3×3 on 96 channels gain a fifth, at 14 on 64 a tenth, on 32 nothing; at 7 they lose. With AVX2 up to a half is
gained at 29, and up to a sixth at 16.

More where less is gained: fully connected layers and filters of one tap (a quarter at 28 to 40, of 784→300; at 24, wide
layers lose a quarter with AVX2), image rows of fewer than four pixels (at 23 a tenth is lost), and dX where bands spare
a tenth (at 16 a sixth is lost)."""

BANDS_SPARE, BANDS_PAY = 0.1, 0.2
"""Share of a convolution's multiply-adds of dX that meet zeros beyond dy's first and last rows, from which on bands
that skip these gain more than blocks of channels, which do not know them: where connections are few, and always. 3×3 on
4×4 pixels: a sixth, where blocks gain a half with AVX2 at 90%, and nothing with AVX-512."""

CACHE_SETS, CROWDED = 64, 16
"""Sets of a first-level cache, of eight lines each, and at every how many of them channels may begin. Where all begin
at one set, eight channels' lines of a pixel fill it: dX of 16→16 channels of 32×32, dense, takes half as long again."""

BLOCK_ROWS = 2048
"""Rows beyond which blocks do not pay: a second-level cache no longer holds the sums that a block leaves to the
next."""

FOLD_PAYS = 2
"""Multiply-adds of lines, for each line of x and y, that a convolution of a small batch must spare for its images to be
cut into strips. Strips are a copy of x and of dy, and y and dx are copied out of theirs. With eight samples, 16→16
channels of 32×32 at 90%, which spare 3.6, take a fifth less; 16→32 channels of 1×1 with a stride of 2, dense, which
spare 2.7, a tenth. Sets the order of sums."""

SORTED_STRETCH = 256
"""Numbers of which the largest are found by sorting them. Counting digits clears three tables of 2,048 counts first, as
long as sorting takes here."""

SAMPLED_EVERY = 256
"""Of many numbers, every how many are looked at to find out which are too small to be among the largest. A sample of a
thousand is sorted in the time of one pass over the gradients of 235,200 connections, of which 1,411 are wanted."""

EXACT_BLOCK = 1 << 18
"""Connections whose gradient is looked at together where the largest of all absent ones are wanted: 1 MiB of them, so
that a small layer is one call of a kernel. A layer with more stored connections takes as many at once."""

# ---------------------------------------------------------------------------------------------- CPU: gather and sample

def few_registers(register_bytes: int) -> bool:
    """Whether there are sixteen, as AVX2 has, and not the 32 of AVX-512 and NEON."""
    return register_bytes == 32


def gather_sums(register_bytes: int) -> int:
    """Registers of sums that gather keeps for a group of rows: half of what there are."""
    return 8 if few_registers(register_bytes) else 16


def gather_lines(most_group: int, register_bytes: int, registers: int) -> int:
    """Lines of images, of so many registers each, whose sums gather keeps in registers, for every row of a group: a
    power of two.

    A connection's offset is read once for all of them. A row alone has eight sums: it waits for x, and what it costs to
    begin and end a row of 14 connections is shared by all its lines. Eight lines of AVX-512 gain a tenth over four,
    four of AVX2 a quarter over two.
    """
    sums = gather_sums(register_bytes) // most_group if most_group > 1 else 8
    lines = max(1, sums // registers)
    return 1 << (lines.bit_length() - 1)


LONG_ROW = 64
"""Connections of a row, on average, from which beginning and ending it no longer counts."""


def linear_lines(most_group: int, register_bytes: int, registers: int, connections: float = 0) -> int:
    """The same for a fully connected layer, whose rows have so many connections, and for COO: at most four, which
    BLOCK_LINES counts on.

    With AVX2, a row alone takes four lines only if it is short, which gains up to a third. In those of 100 connections,
    two, which a nearer cache holds, are faster by a thirtieth, and in blocks by a seventh.
    """
    lines = min(4, gather_lines(most_group, register_bytes, registers))
    return min(lines, 2) if most_group == 1 and few_registers(register_bytes) and connections >= LONG_ROW else lines


def gather_passes(group: int, register_bytes: int, registers: int) -> int:
    """Into how many passes over a group's connections gather cuts a line, so that its sums fit: a power of two.

    With AVX2, a line of bfloat16 makes four registers, and four rows sixteen sums: these would fill the register file,
    and wait in memory. Eight in each of two passes are twice as fast.
    """
    fit = max(1, gather_sums(register_bytes) // group)
    return max(1, registers >> (fit.bit_length() - 1))


SAMPLE_BLOCK = 8
"""Connections of one row, or of COO's rows, whose sums sample reduces together: a tree of shuffles costs each of eight
a quarter of what it costs one. Threads cut COO's connections at multiples of it."""

SAMPLE_ACROSS_LINES = 4
"""Lines whose addresses COO's sample keeps in registers, of dy and of x alike. Sets the order of sums."""


def sample_lines(register_bytes: int, registers_of_line: int) -> int:
    """Lines of dy that sample keeps in registers for a row alone, beside SAMPLE_BLOCK sums. Sets the order of sums.

    Beside these sums AVX2 has room for two lines of float32, for which a reduction costs too much: where there are
    more, dy is read again, a load for eight multiply-adds, and sums go on over all lines of a panel. That gains a
    tenth to a fifth, and with bfloat16, of which no line fits, a third to a half.
    """
    if few_registers(register_bytes):
        return 2 if registers_of_line == 2 else 0
    return max(1, (8 if register_bytes == 64 else 4) // registers_of_line)


def sample_block(group: int, register_bytes: int, together: int) -> int:
    """Connections that sample takes at once for a group of rows: as many sums as the register file holds beside as many
    registers of x or of each row's dy, whichever are fewer, as are loaded together."""
    if group == 1:
        return SAMPLE_BLOCK
    if register_bytes == 64:  # AVX-512 has 32 registers
        return 4 if group == 4 or (group == 3 and together == 2) else 8
    return {2: 4}.get(group, 3 if few_registers(register_bytes) and together == 1 else 2)


def sample_turn(group: int, register_bytes: int) -> int:
    """Lines in a turn of sample's innermost loop, for a row alone or a group.

    Two for a row alone: narrow images make few turns of each. And with AVX2, where LLVM would otherwise keep an address
    for each line of each row, more than there are registers: a twentieth of the time.
    """
    return 2 if group == 1 or few_registers(register_bytes) else 1


NEAR_CACHE = 64 * 1024
"""Bytes of a first-level cache and a little beyond: what lies there is found often enough. Rows alone let sample take
so much of x before it goes over the connections again. Sets the order of sums."""

FAR_CACHE = 512 * 1024
"""Bytes of a second-level cache to count on. Groups let sample take so much of x, which sets the order of
sums; where a band of images reads more, rows are walked in pieces; COO fetches early beyond it."""

IMAGE_CACHE = 128 * 1024
"""Bytes of x that sample walks for all rows of a convolution before it goes on: a second-level cache holds them beside
dy, what filters read beyond their edge, and what is fetched of the next. Sums meanwhile stay in registers. At 64→128
channels of 16×16 it gains a third over whole images, which come from the third level. Sets the order of sums."""

BAND_POSITIONS, FEWEST_POSITIONS = 64, 16
"""Positions of a band of an image, at least, where the image has so many; and those of several of the smallest images,
at most, that sample takes together. At the end of these a reduction costs about thirty operations for eight
connections; but every image lies on other pages of memory. Sets the order of sums."""

PARTIAL_PAYS = 8
"""Numbers of x, for each sum that sample keeps of a band of images, for threads to take bands instead of rows. Each
then reads its share of x and dy, not all of x: in a ResNet-20 at 95%, two threads take 7% less for all dW. The sums of
all bands take an eighth of x at most; where there are more, products count, not memory."""

LEAST_PANEL, LEAST_GROUP_PANEL = 4, 8
"""Lines that sample takes at least, of a row alone and of a group: fewer would not pay for walking the
connections. Sets the order of sums."""

PREFETCH_AHEAD = 32
"""Connections between fetching a line and using it, in COO where x is not in the cache: what memory takes to answer."""

CHUNK_CACHE, LEAST_CHUNK = 1024 * 1024, 4
"""Bytes of the tiles of x and y that ordinary arrays are packed into at a time, so that a second-level cache holds
them until they are unpacked; and tiles of a fully connected layer at least, whose lines gather and sample take
together. At 384→1536 eight tiles are as fast as four, two cost sample a sixth. Sets the order of sums."""


def chunk_tiles(tile_bytes: int, positions: int) -> int:
    """Tiles of a chunk, of so many bytes of x and y and so many output positions each: no more than the cache holds,
    but as many as sample takes together. Sets the order of sums."""
    least = LEAST_CHUNK if positions == 1 else max(1, FEWEST_POSITIONS // max(positions, 1))
    return max(least, CHUNK_CACHE // max(tile_bytes, 1) // least * least)


# ---------------------------------------------------------------------------------------------- CPU: the others

NORM_PIXELS = 64
"""Lines of a channel that batch normalisation sums up before it goes on to another: a few tiles of small images or of
features, so that joining segments costs little beside summing them. Sets the order of sums."""

REORDER_ROWS, REORDER_COLUMNS = 16, 8
"""Block of a matrix of positions that reorder walks at once: sixteen rows of a transposed matrix read the same cache
lines. At 4096×4096 it takes a fifth of the time, since otherwise every read is another page."""

COST_REORDER, COST_DROPOUT, COST_SGD, COST_ADAM, COST_SOFTMAX, COST_NORM, COST_PACK = 8, 4, 4, 8, 10, 2, 12
"""What these kernels do for one number, counted in multiply-adds, for WORTH_CUTTING to be compared with."""

COST_FEW = 12
"""The same of a connection where samples are few: it takes the loads of a whole line's, about a cycle."""

PACK_TILES = 4
"""Tiles that a thread packs together: those whose lines gather takes together, so that it finds in its cache what it
needs next."""

# ---------------------------------------------------------------------------------------------- CPU: samples that die

LIVES_SIFTED, LIVES_SETTLED = (2, 3, 4, 5, 6, 8, 12), 128
"""After which layers of the Graph Challenge those samples are dropped that have died; hardly any die after these, and
they are dropped after so many more layers, then after twice as many, and so on. What is dropped costs nothing, but what
goes on is moved, which takes as long as a third of a layer, or two where it must come from memory."""

PEN_LINES = 4
"""Lines of half a pen, in which samples wait for layers of the Graph Challenge: those that gather takes together. With
1,024 neurons a second-level cache holds them and what comes of them, and with more neurons as much of it as can be."""

WINDOW_BYTES = 512 * 1024 * 1024
"""Bytes of the layers of the Graph Challenge that are in memory at a time: all 120 of up to 16,384 neurons, 52
of 65,536."""


# ---------------------------------------------------------------------------------------------- CPU: threads

WORTH_CUTTING = 400_000
"""Multiply-adds from which a call is cut into parts: about 8 µs. Handing it out costs a fraction of a microsecond."""

MOST_PARTS = 32
"""Parts of a call that is cut. A thread takes its share of them at once, so that many cost nothing, and what somebody
does not come for is taken by halves. A word has a bit for each."""

LONG_WAIT = 150_000
"""Ticks that a caller waits for parts that others have begun, beyond which it takes these for stopped: about 50 µs."""

MOST_TIMES, LONG_SPENT = 32, 100_000_000
"""A caller that lost two fifths of its time so computes alone, for twice as long as it lost, then four times, and up to
32 times if it goes on; after a good stretch of so many ticks, 30 ms, half as many times. So threads that hardly ever
get a processor cost a few hundredths of the time, and those that lose it now and then are still made use of."""

PATIENCE = 100_000
"""Looks at memory before a waiting worker sleeps, a fraction of a millisecond: longer than Python takes between two
steps, short enough to leave the processor to others when training ends."""

YIELD_EVERY = 4096
"""Looks between two offers of the processor to whoever else wants it: rare enough to cost nothing where nobody does."""

# ---------------------------------------------------------------------------------------------- CUDA

CUDA_WARP = 32
"""Threads of a warp: the hardware's, not a choice."""

CUDA_BLOCK = 128
"""Threads of a block: four warps, so that a multiprocessor fills up even where a thread takes 128 registers."""

CUDA_TEAM = 8
"""Threads of a sample's team, and the connections that it takes at once, its segment: their 64 sums come together with
seven shuffles. It must be a power of two that divides a warp."""

CUDA_UNROLL = 4
"""Connections of gather whose lines are under way at once: as many loads of 16 bytes wait together."""

CUDA_COO_SEGMENT = 64
"""Connections of a COO segment: so few that even a small layer has enough of them to fill a GPU. Sets the order of
sums."""

CUDA_AHEAD = 4
"""The same for COO, where each also keeps a row number and a value: more take registers that other threads want."""

CUDA_CHUNK = 64
"""Features that a block packs through shared memory: 64 floats are two reads of a warp, and a chunk takes 4 KiB."""

CUDA_EACH = 4
"""Elements that a thread of an optimizer updates: how often it makes numbers of its own type of the float64 rates."""

CUDA_NORM_BLOCKS = 256
"""Blocks that share a norm, at most: enough for any card, few enough for one block to add up. Sets the order of
sums."""

CUDA_ENOUGH_SEGMENTS, CUDA_FEWEST_POSITIONS = 8192, 16
"""Where connections are few and positions many, sample's positions are shared out among this many segments in all,
which fills the largest GPU, with no fewer than so many positions each. Sets the order of sums: it does not depend on
the card, so that a network gives the same bits on every one."""

CUDA_RESIDENT = {2: 3, 4: 4, 8: 3}
"""Blocks of sample that a multiprocessor must hold, by the size of an activation: the compiler may take so many
registers that no more fit, and need not spill."""
